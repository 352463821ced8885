"""How images are augmented for training, and cropped and normalised for evaluation."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from mvig_nas.errors import MvigNasError
from mvig_nas.values import about, check

_Positive = Annotated[float, about("A number above 0.", gt=0)]


@dataclass(frozen=True)
class Preprocessing:
    """How images are augmented for training, and cropped and normalised for evaluation.

    Raises:
        MvigNasError: a value is outside its range.
    """

    TITLE: ClassVar[str] = "Images"

    crop_scale: Annotated[
        tuple[float, float],
        about(
            "Smallest and largest area of the random crop that training sees, as shares of the image.",
            metavar="LOW HIGH",
        ),
    ] = (0.35, 1.0)
    flip: Annotated[
        float, about("Probability of flipping an image horizontally while training, from 0 to 1.", ge=0, le=1)
    ] = 0.5
    color_jitter: Annotated[
        float,
        about(
            "Largest relative change of brightness, contrast and saturation; 0 changes nothing. RandAugment replaces "
            "it.",
            ge=0,
        ),
    ] = 0.0
    rand_augment: (
        Annotated[
            str,
            about(
                "RandAugment in timm's notation, for example rand-m9-mstd0.5-inc1; `none` switches it off.",
                metavar="STRING|none",
            ),
        ]
        | None
    ) = None
    random_erasing: Annotated[
        float, about("Probability of erasing a random rectangle of an image, from 0 to 1.", ge=0, le=1)
    ] = 0.0
    interpolation: Annotated[
        Literal["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest"],
        about("Filter that images are resized with."),
    ] = "bicubic"
    crop_fraction: Annotated[
        float,
        about("Share of an image's side that the central crop keeps when the network is evaluated.", gt=0, le=1),
    ] = 0.9
    mean: Annotated[
        tuple[float, float, float],
        about("Mean of the red, green and blue pixels, in [0, 1]; it is subtracted from them.", metavar="R G B"),
    ] = (0.485, 0.456, 0.406)
    std: Annotated[
        tuple[_Positive, _Positive, _Positive],
        about(
            "Standard deviation of the red, green and blue pixels, in [0, 1]; they are divided by it.", metavar="R G B"
        ),
    ] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check(self)
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest <= 1:
            raise MvigNasError(
                f"`crop_scale` must be 0 < smallest <= largest <= 1, got {tuple(self.crop_scale)}; change it."
            )
        if self.rand_augment is not None and not _is_rand_augment(self.rand_augment):
            raise MvigNasError(
                f"`rand_augment` must be a RandAugment string of timm, got {self.rand_augment!r}; "
                "try 'rand-m9-mstd0.5-inc1'."
            )


def _is_rand_augment(config: str) -> bool:
    from timm.data.auto_augment import rand_augment_transform

    try:
        rand_augment_transform(config, {})
    except (AssertionError, ValueError, KeyError, IndexError):
        return False
    return True
