"""The two graph operators: what each pixel of a map learns from the pixels it is linked to, as one number a channel.

Shapes: x and the result are (B, C, H, W).
"""

import torch
from torch import Tensor

from mvig_nas.architecture import KNN_NEIGHBOURS

LEAST_FEATURE = 1e-4  # a normal number in fp16; pixels whose every feature is smaller are not brought to unit length


def svga(x: Tensor, step: int) -> Tensor:
    """Max-relative features of sparse vision graph attention (SVGA, arXiv 2307.00395, algorithm 1).

    A pixel is linked to every `step`-th pixel of its row and of its column, circularly; the result is the largest of 0
    and `x - x_link` over its links. As `max(x - x_link) = x - min(x_link)` and a minimum may count a value twice,
    doubling the rolled distance needs ceil(log2 n) rolls for n links, and gives the reference loop's result to the bit.

    Where `step` divides both sides, all pixels of a column that are a multiple of `step` apart have the same links, so
    one minimum serves them all. That is faster still, but takes reshapes to five axes, which a phone's Neural Engine
    does not run: converters and tracers, which work on fake tensors, find the rolls.
    """
    if x.shape[2] % step == 0 and x.shape[3] % step == 0 and _is_computed(x):
        return _svga_by_residue(x, step)
    rows = _minimum_over_rolls(x, step, dim=2)
    columns = _minimum_over_rolls(x, step, dim=3)
    return x - torch.minimum(rows, columns)


def svga_loop(x: Tensor, step: int) -> Tensor:
    """`svga` as the reference code computes it, a roll a link: what the published latencies were measured on."""
    relative = x - x
    for dim in (2, 3):
        for distance in range(step, int(x.shape[dim]), step):
            relative = torch.maximum(relative, x - _roll(x, distance, dim))
    return relative


def knn(x: Tensor) -> Tensor:
    """Max-relative features over the k nearest pixels in feature space (ViG, arXiv 2206.00272).

    Nearest by the distance of unit-length features, hence by their largest inner product; a pixel counts among its own
    neighbours, so the result `max(x_link) - x` is at least 0. k is `KNN_NEIGHBOURS`, fewer on a smaller map.
    """
    batch, channels, height, width = (int(size) for size in x.shape)
    pixels = height * width
    neighbours = min(KNN_NEIGHBOURS, pixels)
    nodes = x.reshape(batch, channels, pixels)
    # Scaled by the largest feature first: in fp16 a sum of squares overflows from 256 on, and ViG's 1e-12 is 0.
    least = torch.full((), LEAST_FEATURE, dtype=x.dtype, device=x.device)
    scaled = nodes / torch.maximum(nodes.abs().amax(dim=1, keepdim=True), least)
    unit = scaled * torch.rsqrt(torch.maximum((scaled * scaled).sum(dim=1, keepdim=True), least))
    similarity = torch.matmul(unit.transpose(1, 2), unit)  # (B, N, N)
    nearest = similarity.topk(neighbours, dim=2).indices.reshape(batch, 1, pixels * neighbours)
    links = torch.gather(nodes, 2, nearest.expand(batch, channels, pixels * neighbours))
    strongest = links.reshape(batch, channels, pixels, neighbours).amax(dim=3)
    return (strongest - nodes).reshape(batch, channels, height, width)


def _is_computed(x: Tensor) -> bool:
    is_traced = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return type(x) is Tensor and not is_traced


def _svga_by_residue(x: Tensor, step: int) -> Tensor:
    batch, channels, height, width = x.shape
    # Channels last: every minimum then runs over long contiguous rows.
    y = x.permute(0, 2, 3, 1).contiguous()
    span = step * channels
    rows = y.view(batch, height // step, step * width * channels).amin(1).view(batch, 1, step, width // step, span)
    columns = y.view(batch * height, width // step, span).amin(1).view(batch, height // step, step, 1, span)
    relative = y.view(batch, height // step, step, width // step, span) - torch.minimum(rows, columns)
    return relative.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _minimum_over_rolls(x: Tensor, step: int, dim: int) -> Tensor:
    """Minimum of x rolled by 0, step, 2 step, ... below the map's size along `dim`."""
    total = -(-int(x.shape[dim]) // step)
    covered = 1
    while covered < total:
        more = min(covered, total - covered)
        x = torch.minimum(x, _roll(x, more * step, dim))
        covered += more
    return x


# Two slices and a concatenation: Core ML turns torch.roll into a gather, which leaves the Neural Engine.
def _roll(x: Tensor, distance: int, dim: int) -> Tensor:
    if dim == 2:
        return torch.cat([x[:, :, -distance:], x[:, :, :-distance]], dim=2)
    return torch.cat([x[:, :, :, -distance:], x[:, :, :, :-distance]], dim=3)
