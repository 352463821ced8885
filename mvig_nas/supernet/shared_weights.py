"""Supernet: one set of weights in which every architecture of a space is a slice.

There is no second, elastic network: a sub-network is a plain MobileViG without storage of its own, run on slices of the
largest one's weights. The architecture is an argument, so nothing has to be set or
reset. Shapes: images (B, 3, R, R), logits (B, num_classes).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mvig_nas.architecture import Architecture, Stage
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.network import MobileViG, build
from mvig_nas.network.blocks import GraphBlock, MBConv
from mvig_nas.network.mobilevig import Unfilled
from mvig_nas.search_space import SearchSpace, Value
from mvig_nas.supernet.slices import Copies, Window, smaller_kernel, source_of
from mvig_nas.supernet.sorting import sort_block

LAYER_SCALE_INIT = 0.1  # at MobileViG's 1e-5 networks of every depth compute the same for the first epochs
_PLANS = 64


class Supernet(nn.Module):
    """Weights of every architecture of a space.

    Besides the largest network's weights it holds, for each depthwise kernel size but the largest, a matrix that the
    centre of the kernel passes through, and for each number of groups above 1 a batch norm of its own: a group sees
    fewer inputs, and one pair of scale and shift serves dense and grouped weights badly.

    Args:
        space: the architectures that it holds.
        num_classes: size of the logits.
        layer_scale_init: what the layer scales of MBConv and graph branches start from.
        distillation: whether there is a second classifier, as in `MobileViG`.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_classes: int = 1000,
        *,
        layer_scale_init: float = LAYER_SCALE_INIT,
        distillation: bool = False,
    ) -> None:
        super().__init__()
        self.space = space
        self.num_classes = num_classes
        self.distillation = distillation
        self.container = _container(space)
        self.network = build(self.container, num_classes, distillation=distillation, layer_scale_init=layer_scale_init)
        self.kernel_transforms = nn.ParameterDict()
        self.group_norms = nn.ModuleDict()
        self._kernel_sizes: list[list[int]] = []
        for index, stage in enumerate(self.container.stages):
            choices = space.stage_choices(index + 1)
            self._kernel_sizes.append(sorted(int(size) for size in choices["conv_kernel"]))
            for block in range(stage.conv_depth):
                for size in self._kernel_sizes[-1][:-1]:
                    self.kernel_transforms[f"{index}_{block}_{size}"] = nn.Parameter(torch.eye(size * size))
            for block in range(stage.conv_depth, stage.conv_depth + stage.graph_depth):
                for groups in choices["graph_groups"]:
                    if groups != 1:
                        norm = nn.BatchNorm2d(stage.operator.outputs * stage.width)
                        self.group_norms[f"{index}_{block}_{groups}"] = norm
        self._plans: OrderedDict[Architecture, _Plan] = OrderedDict()

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Logits of a sub-network; of two classifiers, their mean.

        In training mode batch norms use the batch and update the running statistics of the slice.

        Raises:
            MvigNasError: the architecture is not of this space.
        """
        plan = self._plan(architecture)
        if plan.skeleton.training != self.training:
            plan.skeleton.train(self.training)
        try:
            # What `torch.func.functional_call` does, but for its search for every name, which takes a millisecond.
            for source, tensor in self._tensors(plan):
                source.slot[source.leaf] = tensor
            return cast(Tensor, plan.skeleton(images))
        finally:
            for source in (*plan.views, *plan.copies):
                source.slot[source.leaf] = None

    def weights(self, architecture: Architecture) -> dict[str, Tensor]:
        """Parameters and buffers of a sub-network by MobileViG's names, as views or functions of the supernet's.

        Buffers are views, for batch norms to write to.

        Raises:
            MvigNasError: the architecture is not of this space.
        """
        return {source.name: tensor for source, tensor in self._tensors(self._plan(architecture))}

    def _tensors(self, plan: "_Plan") -> Iterator[tuple["_Source", Tensor]]:
        for source in plan.views:
            yield source, source.window(source.holder[source.key])
        copies = Copies.apply([source.window for source in plan.copies], *(s.holder[s.key] for s in plan.copies))
        for source, weight in zip(plan.copies, copies, strict=True):
            kernel = weight
            for size, transform in source.transforms:
                kernel = smaller_kernel(kernel, size, self.kernel_transforms[transform])
            yield source, kernel

    def extract(self, architecture: Architecture) -> MobileViG:
        """A plain MobileViG with the sub-network's weights: same outputs to the bit, nothing shared.

        Raises:
            MvigNasError: the architecture is not of this space.
        """
        network = self._skeleton(architecture)
        with torch.no_grad():
            weights = {name: tensor.detach().clone() for name, tensor in self.weights(architecture).items()}
        network.load_state_dict(weights, assign=True)
        return network.train(self.training)

    def sort_channels(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put the hidden channels that matter most first, before narrower sub-networks are trained.

        Args:
            optimizer: of this supernet, whose moments are put in the same order.
        """
        for module in self.network.modules():
            if isinstance(module, (MBConv, GraphBlock)):
                sort_block(module, optimizer)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone: layer scales, and the transforms, which start as the identity."""
        return {f"network.{name}" for name in self.network.no_weight_decay()} | {
            f"kernel_transforms.{name}" for name in self.kernel_transforms
        }

    def _plan(self, architecture: Architecture) -> "_Plan":
        """How a sub-network runs; the last ones used are kept."""
        plan = self._plans.get(architecture)
        if plan is None:
            self.space.encode(architecture)
            plan = self._plans[architecture] = self._new_plan(architecture)
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(architecture)
        return plan

    def _new_plan(self, architecture: Architecture) -> "_Plan":
        plan = _Plan(self._skeleton(architecture), [], [])
        own = dict(_tensors_of(self))
        for name, (slot, leaf) in _tensors_of(plan.skeleton):
            tensor = slot[leaf]
            where = source_of(name, tensor.shape, architecture, self.container, self._kernel_sizes)
            holder, key = own[where.name]
            full = holder[key].shape
            window = Window.of(full, (tensor.shape[0], *full[1:]) if where.transforms else tensor.shape, where.groups)
            source = _Source(name, slot, leaf, holder, key, window, where.transforms)
            # Of a vector the view is as good as a copy; other windows have gaps.
            is_view = not where.transforms and (tensor.ndim < 2 or window(holder[key]) is holder[key])
            (plan.views if is_view else plan.copies).append(source)
        return plan

    def _skeleton(self, architecture: Architecture) -> MobileViG:
        """The sub-network without storage."""
        with Unfilled("meta"):
            return build(architecture, self.num_classes, distillation=self.distillation)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": OrderedDict()}  # a copy makes its own


@dataclass(frozen=True)
class _Source:
    """A tensor of a sub-network: the dict of its module, and that of the supernet's module that it is a part of.

    `Module.to` puts other tensors into these dicts, so they are what stays.
    """

    name: str
    slot: dict[str, Any]
    leaf: str
    holder: dict[str, Any]
    key: str
    window: Window
    transforms: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class _Plan:
    """A sub-network without storage, and what it runs on: views, and copies of windows that are not contiguous."""

    skeleton: MobileViG
    views: list[_Source]
    copies: list[_Source]


def _tensors_of(network: nn.Module) -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    """Every parameter and buffer by name: the dict of its module in which it stands, and its name there."""
    for owner, module in network.named_modules():
        for held in (module._parameters, module._buffers):
            for leaf, tensor in held.items():
                if tensor is not None:
                    yield f"{owner}.{leaf}" if owner else leaf, (held, leaf)


def _container(space: SearchSpace) -> Architecture:
    """The largest network with dense graph convolutions, of which grouped ones are parts, and of most outputs."""
    largest = space.largest
    stages = tuple(_widest(stage, space.stage_choices(number)) for number, stage in enumerate(largest.stages, start=1))
    return replace(largest, stages=stages)  # type: ignore[arg-type]


def _widest(stage: Stage, choices: Mapping[str, Sequence[Value]]) -> Stage:
    if not stage.graph_depth:
        return stage
    names = (stage.operator.name, *map(str, choices["graph_operator"]))
    name = max(names, key=lambda name: OPERATORS[name].outputs)  # of several, the largest network's own
    step = int(choices["graph_step"][-1]) if stage.graph_step is None else stage.graph_step
    return replace(stage, graph_groups=1, graph_operator=name, graph_step=step)
