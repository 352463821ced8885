"""Whole batches at another resolution."""

from torch import Tensor
from torch.nn import functional as F


def resized(images: Tensor, resolution: int) -> Tensor:
    """Images (B, 3, R, R) brought to `resolution`, with antialiasing; the same tensor where R is that already."""
    if images.shape[-1] == resolution:
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False)
