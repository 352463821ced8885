"""Kernels of an Architecture in closed form: what `trace` finds in its network, without building one.

Three forms of the same network:
- `built`: as `network.build` makes it, both classifiers, links in as few operations as they take;
- `exported`: as `network.for_inference` and `coreml.export` make it, the classifiers averaged into one;
- `reference`: as the authors' code runs it, a roll for each link; published latencies are this form's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mvig_nas.architecture import CPE_KERNEL, Architecture, Stage
from mvig_nas.kernels.kernel import BYTES_PER_ELEMENT, NETWORK_INPUT, Kernel, elements

Form = Literal["built", "exported", "reference"]
FORMS: tuple[Form, ...] = ("built", "exported", "reference")
IMAGE_CHANNELS = 3


def of(architecture: Architecture, form: Form = "built", num_classes: int = 1000) -> tuple[Kernel, ...]:
    """Kernels of the architecture's network, in the order in which they run.

    Args:
        architecture: the network on paper; its resolution sizes the image, (1, 3, R, R).
        form: which form of the network, see the module.
        num_classes: outputs of the classifier.
    """
    kernels: list[Kernel] = []
    for section in sections(architecture, form, num_classes):
        kernels += section.kernels
    return tuple(kernels)


@dataclass(frozen=True)
class Section:
    """A stretch of a network's kernel list: `stem`, `stage1` to `stage4`, `head`."""

    name: str
    kernels: tuple[Kernel, ...]


def sections(architecture: Architecture, form: Form = "built", num_classes: int = 1000) -> tuple[Section, ...]:
    """`of`, cut where the network's parts begin; arguments as there."""
    network = KernelBuilder((1, IMAGE_CHANNELS, architecture.resolution, architecture.resolution), form)
    x = network.stem(architecture.stages[0])
    ends = {"stem": len(network.kernels)}
    for index, stage in enumerate(architecture.stages):
        if index:
            x = network.conv(x, stage.width, 3, stride=2)
        for _ in range(stage.conv_depth):
            x = network.mbconv(x, stage)
        for _ in range(stage.graph_depth):
            x = network.graph_block(x, stage)
        ends[f"stage{index + 1}"] = len(network.kernels)
    network.head(x, architecture.head_width, num_classes, architecture.stages[-1].activation)
    ends["head"] = len(network.kernels)
    starts = (0, *ends.values())
    return tuple(
        Section(name, tuple(network.kernels[start:end]))
        for (name, end), start in zip(ends.items(), starts, strict=False)
    )


@dataclass
class KernelBuilder:
    """Grows a kernel list block by block; a value is named by the index of the kernel that made it."""

    image: tuple[int, ...]
    form: Form = "built"
    kernels: list[Kernel] = field(default_factory=list)

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return self.image if value == NETWORK_INPUT else self.kernels[value].shape

    def conv(
        self,
        x: int,
        out: int,
        size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        scale: bool = False,
    ) -> int:
        """Convolution with bias, batch norm (`norm`) and layer scale (`scale`) folded in."""
        channels = self.shape(x)[1]
        trained = 0 if self.form == "exported" else 2 * out * norm + out * scale
        trained += out * channels // groups * size * size + out
        return self._conv(x, out, trained, size=size, stride=stride, groups=groups)

    def stem(self, stage: Stage) -> int:
        """Image to the first stage."""
        x = self.conv(NETWORK_INPUT, stage.width // 2, 3, stride=2)
        x = self.conv(self.activation(x, stage.activation), stage.width, 3, stride=2)
        return self.activation(x, stage.activation)

    def mbconv(self, x: int, stage: Stage) -> int:
        """One MBConv block."""
        hidden = stage.width * (stage.conv_expansion or 1)
        branch = self.activation(self.conv(x, hidden), stage.activation)
        branch = self.conv(branch, hidden, stage.conv_kernel or 1, groups=hidden)
        branch = self.conv(self.activation(branch, stage.activation), stage.width, scale=True)
        return self.binary("add", x, branch)

    def graph_block(self, x: int, stage: Stage) -> int:
        """One grapher and its feed-forward network."""
        return self.ffn(self.grapher(x, stage), stage)

    def grapher(self, x: int, stage: Stage) -> int:
        """Positional encoding if any, links, graph convolution and the residual around them."""
        encoded = x
        if stage.graph_cpe:
            encoded = self.conv(x, stage.width, CPE_KERNEL, groups=stage.width, norm=False)
            if self.form != "exported":
                encoded = self.binary("add", x, encoded)
        nodes = self.conv(encoded, stage.width)
        run = stage.operator.reference if self.form == "reference" else stage.operator.links
        mixed = self._graph_conv(nodes, run(self, nodes, stage.graph_step or 0), stage)
        mixed = self.conv(self.activation(mixed, stage.activation), stage.width, scale=bool(stage.graph_scale))
        return self.binary("add", x, mixed)

    def ffn(self, x: int, stage: Stage) -> int:
        """The feed-forward network after a grapher."""
        hidden = self.activation(self.conv(x, stage.width * (stage.ffn_expansion or 1)), stage.activation)
        return self.binary("add", x, self.conv(hidden, stage.width, scale=bool(stage.graph_scale)))

    def head(self, x: int, head_width: int, num_classes: int, activation: str) -> int:
        """Pooling, the head's convolution and the classifier or classifiers."""
        x = self.add("reduce_mean", (*self.shape(x)[:2], 1, 1), (x,))
        x = self.activation(self.conv(x, head_width), activation)
        logits = self.conv(x, num_classes, norm=False)
        if self.form != "exported":
            logits = self.binary("add", logits, self.conv(x, num_classes, norm=False))
            logits = self.add("mul", self.shape(logits), (logits,))
        return self.add("reshape", self.shape(logits)[:2], (logits,))

    def activation(self, x: int, name: str) -> int:
        """An activation function; the ML program has three operations for hard-swish."""
        shape = self.shape(x)
        if name != "hard_swish":
            return self.add(name, shape, (x,))
        gate = self.add("thresholded_relu", shape, (x,))
        return self.add("mul", shape, (gate, self.add("sigmoid_hard", shape, (gate,))))

    def add(
        self, kind: str, shape: tuple[int, ...], inputs: tuple[int, ...], *, bytes_in: int | None = None, macs: int = 0
    ) -> int:
        """A kernel without weights; it reads all of its inputs unless `bytes_in` says less."""
        if bytes_in is None:
            bytes_in = sum(self._bytes(self.shape(value)) for value in inputs)
        self.kernels.append(Kernel(kind, shape, macs, bytes_in, self._bytes(shape), 0, inputs=inputs))
        return len(self.kernels) - 1

    def _conv(
        self, x: int, out: int, parameters: int, *, size: int = 1, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> int:
        _, channels, height, width = self.shape(x)
        shape = (1, out, -(-height // stride), -(-width // stride))
        per_output = channels // groups * size * size
        self.kernels.append(
            Kernel(
                "conv",
                shape,
                macs=elements(shape) * per_output,
                bytes_in=self._bytes(self.shape(x)),
                bytes_out=self._bytes(shape),
                bytes_weights=BYTES_PER_ELEMENT * (out * per_output + out * bias),
                parameters=parameters,
                kernel_size=(size, size),
                stride=(stride, stride),
                groups=groups,
                inputs=(x,),
            )
        )
        return len(self.kernels) - 1

    def _graph_conv(self, nodes: int, links: int, stage: Stage) -> int:
        width, groups = stage.width, stage.graph_groups or 1
        shape = self.shape(nodes)
        out = stage.operator.outputs * width
        if groups == 1:
            return self.conv(self.add("concat", (1, 2 * width, *shape[2:]), (nodes, links)), out)
        # The two halves of one weight, which counts where it is first used; the bias is the second's.
        own = self._conv(nodes, out, out * 2 * width // groups, groups=groups, bias=False)
        mixed = self.binary("add", own, self._conv(links, out, out, groups=groups))
        if self.form == "exported":
            return mixed
        shape = self.shape(mixed)
        per_channel = 2 * out
        self.kernels.append(
            Kernel(
                "batch_norm",
                shape,
                macs=0,
                bytes_in=self._bytes(shape),
                bytes_out=self._bytes(shape),
                bytes_weights=BYTES_PER_ELEMENT * per_channel,
                parameters=per_channel,
                inputs=(mixed,),
            )
        )
        return len(self.kernels) - 1

    # What follows are the operations of `graph_operators.Maps`.

    def unary(self, kind: str, x: int) -> int:
        """A function of each element."""
        return self.add(kind, self.shape(x), (x,))

    def binary(self, kind: str, one: int, other: int) -> int:
        """A function of two values, which broadcast."""
        shapes = zip(self.shape(one), self.shape(other), strict=True)
        return self.add(kind, tuple(max(sizes) for sizes in shapes), (one, other))

    def with_constant(self, kind: str, x: int, constant: float) -> int:  # noqa: ARG002 - a number costs nothing
        """A function of each element and a constant."""
        return self.add(kind, self.shape(x), (x,))

    def reduce(self, kind: str, x: int, dims: Sequence[int], keep_dims: bool = True) -> int:
        """A reduction over some axes, which stay with size 1 if `keep_dims`."""
        sizes = [(1 if dim in dims else size) for dim, size in enumerate(self.shape(x)) if keep_dims or dim not in dims]
        return self.add(kind, tuple(sizes), (x,))

    def slice(self, x: int, dim: int, start: int, stop: int) -> int:
        """A part of a value along one axis; only this part is read."""
        shape = self.shape(x)
        part = (*shape[:dim], stop - start, *shape[dim + 1 :])
        return self.add("slice_by_index", part, (x,), bytes_in=self._bytes(part))

    def concat(self, parts: Sequence[int], dim: int) -> int:
        """Values one after the other along one axis."""
        shape = self.shape(parts[0])
        total = sum(self.shape(part)[dim] for part in parts)
        return self.add("concat", (*shape[:dim], total, *shape[dim + 1 :]), tuple(parts))

    def reshape(self, x: int, shape: tuple[int, ...]) -> int:
        """The same elements in another shape."""
        return x if self.shape(x) == shape else self.add("reshape", shape, (x,))

    def inner_products(self, x: int) -> int:
        """Of all pairs of pixels: (1, C, N) to (1, N, N)."""
        batch, channels, pixels = self.shape(x)
        return self.add("matmul", (batch, pixels, pixels), (x, x), macs=pixels * pixels * channels)

    def largest(self, x: int, count: int) -> int:
        """Indices of the largest elements along the last axis."""
        return self.add("topk", (*self.shape(x)[:-1], count), (x,))

    def gather(self, x: int, indices: int) -> int:
        """The pixels (1, C, M) of x (1, C, N) at indices (1, 1, M), which must be there for every channel."""
        batch, channels, _ = self.shape(x)
        tiled = self.add("tile", (batch, channels, self.shape(indices)[-1]), (indices,))
        return self.add("gather_along_axis", self.shape(tiled), (x, tiled))

    def without_gradient(self, x: int) -> int:
        """The same value."""
        return x

    @staticmethod
    def _bytes(shape: tuple[int, ...]) -> int:
        return BYTES_PER_ELEMENT * elements(shape)
