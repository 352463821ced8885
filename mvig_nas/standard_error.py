"""How uncertain a top-1 is, by the number of images that it was measured on."""

from math import sqrt


def standard_error(top1: float, images: int) -> float:
    """Standard error of a top-1 (a fraction) that was measured on so many images, a fraction: the binomial's."""
    return sqrt(top1 * (1 - top1) / images)
