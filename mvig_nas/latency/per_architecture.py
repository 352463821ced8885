"""Predicted latency of Architectures, thousands a second: features are sums, so every block's are computed once.

A block's features depend on the block, the size of its map and the kind of kernel that made its input; whatever the
space, there are a few thousand of those. A network is then a short list of rows to add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from scipy.sparse import csr_matrix

from mvig_nas import shipped
from mvig_nas.architecture import STRIDE, Architecture, Stage
from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import NETWORK_INPUT, Form, Kernel, KernelBuilder, Section, Totals, sections, totals
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.latency_predictor import LatencyPredictor

NUM_CLASSES = 1000  # of ImageNet-1k, for networks whose images nobody has named
_Producer = Literal["image", "act", "conv", "add"]
_GRAPH_KINDS = frozenset({"slice_by_index", "concat", "minimum", "maximum", "sub", "gather_along_axis", "tile", "topk"})


@dataclass(frozen=True)
class StageCost:
    """A stage's share of a network; `shape` is its output's."""

    name: str
    shape: str
    kernels: int
    parameters: int
    macs: int
    latency_ms: float


class BlockFeatures:
    """Summed kernel features of architectures in one form, as a predictor sees them, remembered block by block."""

    def __init__(
        self,
        form: Form,
        predictor: LatencyPredictor,
        num_classes: int = NUM_CLASSES,
        backbone_side: int | None = None,
    ) -> None:
        self.form: Form = form
        self.num_classes = num_classes
        self.backbone_side = backbone_side
        self._predictor = predictor
        self._columns: dict[_Block, int] = {}
        self._rows: list[FloatArray] = []

    def __call__(self, architectures: Sequence[Architecture]) -> FloatArray:
        """Features, shape (n, F + S); see `LatencyPredictor.network_features`."""
        columns: list[int] = []
        counts: list[int] = []
        ends = [0]
        for architecture in architectures:
            for key, count in self._blocks(architecture):
                column = self._columns.get(key)
                if column is None:
                    column = self._columns[key] = len(self._rows)
                    self._rows.append(self._features(key))
                columns.append(column)
                counts.append(count)
            ends.append(len(columns))
        if not self._rows:
            return self._predictor.network_features(())
        amounts = csr_matrix((counts, columns, ends), shape=(len(architectures), len(self._rows)))
        features: FloatArray = np.asarray(amounts @ np.array(self._rows))
        return features

    def _blocks(self, architecture: Architecture) -> list[tuple["_Block", int]]:
        if self.backbone_side is None:
            return _blocks(architecture, self.num_classes)
        *backbone, head = _blocks(as_backbone(architecture, self.backbone_side), self.num_classes)
        assert head[0].kind == "head"
        return backbone

    def _features(self, key: "_Block") -> FloatArray:
        network = KernelBuilder((1, key.channels, key.size, key.size), self.form)
        x = NETWORK_INPUT
        # The producer's own features are left out again, but what follows may depend on its kind.
        if key.producer == "act":
            x = network.activation(x, key.activation)
        elif key.producer == "conv":
            x = network.conv(x, key.channels, 3)
        elif key.producer == "add":
            x = network.add("add", (1, key.channels, key.size, key.size), (x, x))
        first = len(network.kernels)
        key.grow(network, x)
        summed: FloatArray = self._predictor.kernel_features(network.kernels)[first:].sum(axis=0)
        return summed


class _Block(NamedTuple):
    """What a block's features depend on: `kind`, the kind of kernel that made its input, that input, and choices."""

    kind: str
    producer: _Producer
    size: int
    channels: int
    activation: str
    choices: tuple[Any, ...] = ()

    def grow(self, network: KernelBuilder, x: int) -> None:
        """Add the block's kernels to a network that has made its input."""
        first, *rest = self.choices
        width, activation = self.channels, self.activation
        if self.kind == "stem":
            network.stem(Stage(first, activation=activation))
        elif self.kind == "downsample":
            network.conv(x, first, 3, stride=2)
        elif self.kind == "mbconv":
            stage = Stage(width, conv_depth=1, conv_expansion=first, conv_kernel=rest[0], activation=activation)
            network.mbconv(x, stage)
        elif self.kind == "grapher":
            step, groups, cpe = rest
            graph = {"graph_operator": first, "graph_step": step, "graph_groups": groups, "graph_cpe": cpe}
            network.grapher(x, Stage(width, 0, 1, activation=activation, **graph))
        elif self.kind == "ffn":
            network.ffn(x, Stage(width, graph_depth=1, ffn_expansion=first, activation=activation))
        else:
            network.head(x, first, rest[0], activation)


def as_backbone(architecture: Architecture, side: int) -> Architecture:
    """The architecture at the size of a detector's or segmenter's images, `side` x `side` pixels.

    Raises:
        MvigNasError: `side` is no multiple of 32, or the architecture cannot have it.
    """
    if side < STRIDE or side % STRIDE:
        raise MvigNasError(f"a backbone's images must be a multiple of {STRIDE} pixels wide, got {side}; round it.")
    return replace(architecture, resolution=side)


class ArchitectureLatency:
    """A predictor for Architectures.

    Args:
        predictor: fitted.
        form: of the network; `exported` is what `mvig-nas export` writes.
        num_classes: outputs of the networks' classifiers.
        backbone_side: width of the images in pixels, if what is predicted is the backbone of a detector or segmenter:
            the network without pooling and classifiers, at this size instead of its own. None predicts the classifier.
    """

    def __init__(
        self,
        predictor: LatencyPredictor,
        form: Form = "exported",
        num_classes: int = NUM_CLASSES,
        backbone_side: int | None = None,
    ) -> None:
        self.predictor = predictor
        self.form: Form = form
        self.num_classes = num_classes
        self.backbone_side = backbone_side
        self.features = BlockFeatures(form, predictor, num_classes, backbone_side)

    @classmethod
    def load(
        cls,
        device: str,
        form: Form = "exported",
        num_classes: int = NUM_CLASSES,
        backbone_side: int | None = None,
    ) -> Self:
        """The shipped predictor of a device, given by name, or a fitted predictor, given by its folder.

        Raises:
            MvigNasError: there is no such device or folder, or its predictor is damaged.
        """
        return cls(LatencyPredictor.load(shipped.predictor_folder(device)), form, num_classes, backbone_side)

    def with_form(self, form: Form) -> "ArchitectureLatency":
        """The same predictor for another form of the network."""
        return ArchitectureLatency(self.predictor, form, self.num_classes, self.backbone_side)

    def sections(self, architecture: Architecture, form: Form = "built") -> tuple[Section, ...]:
        """What is predicted, part by part, in a form: all of the classifier, or the backbone at its size."""
        if self.backbone_side is None:
            return sections(architecture, form, self.num_classes)
        sized = as_backbone(architecture, self.backbone_side)
        return tuple(part for part in sections(sized, form, self.num_classes) if part.name != "head")

    def totals(self, architecture: Architecture, form: Form = "built") -> Totals:
        """Costs of what is predicted, in a form."""
        return totals([kernel for part in self.sections(architecture, form) for kernel in part.kernels])

    def predict_ms(self, architectures: Sequence[Architecture]) -> FloatArray:
        """Milliseconds, shape (n,)."""
        return self.predictor.predict_from_features_ms(self.features(architectures))

    def interval_ms(self, architectures: Sequence[Architecture], coverage: float) -> tuple[FloatArray, FloatArray]:
        """Lower and upper milliseconds, shape (n,) each; see `LatencyPredictor.interval_ms`."""
        return self.predictor.interval_from_features_ms(self.features(architectures), coverage)

    def outside(self, architectures: Sequence[Architecture]) -> list[list[str]]:
        """Why each architecture is unlike all that were measured; see `LatencyPredictor.outside`."""
        parts = (self.sections(architecture, self.form) for architecture in architectures)
        networks = [[kernel for part in each for kernel in part.kernels] for each in parts]
        return self.predictor.outside(networks)

    def by_stage(self, architecture: Architecture) -> list[StageCost]:
        """Costs of the stem, each stage and the head, and the fixed cost as `dispatch`; they sum to the prediction."""
        parts = self.sections(architecture, self.form)
        built = {part.name: part.kernels for part in self.sections(architecture)}
        explanation = self.predictor.explain_ms([kernel for part in parts for kernel in part.kernels])
        costs = []
        start = 0
        for part in parts:
            end = start + len(part.kernels)
            latency_ms = float(explanation.kernels_ms[start:end].sum())
            shape = "×".join(map(str, part.kernels[-1].shape[1:]))
            parameters = sum(kernel.parameters for kernel in built[part.name])
            macs = sum(kernel.macs for kernel in built[part.name])
            costs.append(StageCost(part.name, shape, end - start, parameters, macs, latency_ms))
            start = end
        return [*costs, StageCost("dispatch", "", 0, 0, 0, explanation.fixed_ms)]

    def by_kind(self, architecture: Architecture) -> dict[str, float]:
        """Milliseconds by kind of operation, the largest first; they sum to the prediction."""
        network = [kernel for part in self.sections(architecture, self.form) for kernel in part.kernels]
        return milliseconds_by_kind(self.predictor, network)


def milliseconds_by_kind(predictor: LatencyPredictor, network: Sequence[Kernel]) -> dict[str, float]:
    """Milliseconds of a kernel list by kind of operation, the largest first; they sum to the prediction."""
    explanation = predictor.explain_ms(network)
    sums = {"dispatch (fixed)": explanation.fixed_ms}
    for kernel, latency_ms in zip(network, explanation.kernels_ms.tolist(), strict=True):
        kind = _kind(kernel)
        sums[kind] = sums.get(kind, 0.0) + latency_ms
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _blocks(architecture: Architecture, num_classes: int) -> list[tuple[_Block, int]]:
    """Blocks of an architecture, and how often each comes."""
    stages, sizes = architecture.stages, architecture.sizes
    first, last = stages[0], stages[-1]
    blocks = [(_Block("stem", "image", architecture.resolution, 3, first.activation, (first.width,)), 1)]
    producer: _Producer = "act"
    for place, stage in enumerate(stages):
        width, size, activation = stage.width, sizes[place], stage.activation
        if place:
            before = stages[place - 1]
            key = _Block("downsample", producer, sizes[place - 1], before.width, before.activation, (width,))
            blocks.append((key, 1))
            producer = "conv"
        repeated = []
        if stage.conv_depth:
            choices: tuple[Any, ...] = (stage.conv_expansion, stage.conv_kernel)
            repeated.append(("mbconv", stage.conv_depth, choices))
        if stage.graph_depth:
            choices = (stage.graph_operator, stage.graph_step, stage.graph_groups, stage.graph_cpe)
            repeated.append(("grapher", stage.graph_depth, choices))
        for kind, depth, choices in repeated:
            blocks.append((_Block(kind, producer, size, width, activation, choices), 1))
            producer = "add"
            if depth > 1:
                blocks.append((_Block(kind, producer, size, width, activation, choices), depth - 1))
        if stage.graph_depth:
            blocks.append((_Block("ffn", "add", size, width, activation, (stage.ffn_expansion,)), stage.graph_depth))
    head = (architecture.head_width, num_classes)
    blocks.append((_Block("head", producer, sizes[-1], last.width, last.activation, head), 1))
    return blocks


def _kind(kernel: Kernel) -> str:
    if kernel.kind == "conv":
        if kernel.groups == kernel.shape[1]:
            return "depthwise convolution"
        return "1x1 convolution" if kernel.kernel_size == (1, 1) else "dense convolution"
    if kernel.kind in _GRAPH_KINDS:
        return "graph links (slices, concatenations, minima)"
    return kernel.kind
