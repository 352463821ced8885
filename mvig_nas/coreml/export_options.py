"""What a package takes and gives, and where it runs, as a value; the command's options come from here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from mvig_nas.coreml.details import PackageDetails
from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_text
from mvig_nas.recipes import Preprocessing
from mvig_nas.values import about, check

InputKind = Annotated[
    Literal["image", "tensor"],
    about(
        "What the package takes: an RGB image of 0 to 255, which it normalises inside, or the normalised tensor.",
        flags=("--input",),
    ),
]
DeploymentTarget = Annotated[
    Literal["iOS16", "iOS17", "iOS18", "iOS26"], about("Oldest iOS that must run the package.", flags=("--target",))
]
_WITHOUT_FUNCTIONS = ("iOS16", "iOS17")
_Side = Annotated[int, about("Side of an input in pixels.", ge=1)]
_PositiveShare = Annotated[float, about("A standard deviation on a scale of 0 to 1.", gt=0)]


@dataclass(frozen=True)
class ExportOptions:
    """What a package takes and gives, and where it runs.

    Attributes:
        input_kind: `image` takes an RGB image of 0 to 255 and normalises it inside; `tensor` takes the normalised
            (1, 3, R, R) in fp16.
        minimum_deployment_target: `iOS16`, `iOS17`, `iOS18` or `iOS26`.
        class_labels: names of the classes; they make the package a classifier that returns a label and probabilities
            (softmax) instead of logits (1, num_classes).
        mean: what an image's channels are normalised by, on a scale of 0 to 1.
        std: likewise, above 0.
        details: what the package says of itself.
        batch: images at once. More than one takes a tensor and gives logits (batch, num_classes).
        sizes: further sides of the input in pixels. Each is a function `size192` of the package, which shares the
            weights of `main`, the function of the architecture's own resolution; an app names the one that it loads.

    Raises:
        MvigNasError: a value is none of the choices, or out of range.
    """

    TITLE: ClassVar = "Package"

    input_kind: InputKind = "image"
    minimum_deployment_target: DeploymentTarget = "iOS16"
    class_labels: tuple[str, ...] | None = None
    mean: tuple[float, float, float] = Preprocessing.mean
    std: tuple[_PositiveShare, _PositiveShare, _PositiveShare] = Preprocessing.std
    details: PackageDetails = field(default_factory=PackageDetails)
    batch: Annotated[
        int,
        about(
            "Number of images that the package takes at once. More than one needs --input tensor, and gives logits "
            "instead of a label.",
            ge=1,
            le=256,  # what a verification executes at once must have room in memory
        ),
    ] = 1
    sizes: tuple[_Side, ...] = ()

    def __post_init__(self) -> None:
        check(self)
        if self.batch > 1 and self.is_image:
            raise MvigNasError(
                f"a package of several images at once must take a tensor, as Core ML's image is a single one, got "
                f"--batch {self.batch} and --input image; give --input tensor."
            )
        if len(set(self.sizes)) < len(self.sizes):
            raise MvigNasError(f"further sizes of a package must differ, got {self.sizes}; name each once.")
        if self.sizes and self.minimum_deployment_target in _WITHOUT_FUNCTIONS:
            raise MvigNasError(
                "a package of several input sizes must be for iOS18 or newer, as each is a function of it, got "
                f"{self.minimum_deployment_target}; give --target iOS18, or export one package a size."
            )
        if self.batch > 1 and self.class_labels is not None:
            raise MvigNasError(
                f"a classifier's package must take one image, as Core ML gives one label, got {self.batch} images and "
                "class labels; leave out the labels, or --batch."
            )

    @property
    def is_image(self) -> bool:
        """Whether the package takes an image, and normalises it."""
        return self.input_kind == "image"


def read_labels(path: Path) -> tuple[str, ...]:
    """Class labels from a text file, one a line, the first class first.

    Raises:
        MvigNasError: the file is missing or not text, or a line is empty.
    """
    try:
        lines = read_text(path, "a file of class labels").splitlines()
    except FileNotFoundError as error:
        raise MvigNasError(f"class labels must be a UTF-8 text file, one label a line, got {path}: {error}.") from error
    labels = tuple(line.strip() for line in lines)
    for line, label in enumerate(labels, start=1):
        if not label:
            raise MvigNasError(f"{path}: each line must hold a class label, line {line} is empty; delete or fill it.")
    return labels
