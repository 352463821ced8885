"""A saved classifier's package on labelled images: how often it is right, executed here."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from mvig_nas import values
from mvig_nas.coreml.interpreter import Precision, run
from mvig_nas.coreml.package import (
    INPUT_NAME,
    LABEL_NAME,
    METADATA_PREFIX,
    PIXEL_MAXIMUM,
    PREPROCESSING,
    PROBABILITIES_NAME,
    SavedProgram,
)
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, check_classes
from mvig_nas.training.accuracy import Accuracy, Tally


def package_accuracy(
    package: Path, images: LabelledImages, *, precision: Precision = "float16", workers: int = 0
) -> Accuracy:
    """Accuracy of a classifier's package, its classes in the images' order, on images cropped as its metadata say.

    Executed by `execute`, one image at a time: a tenth of a second to some seconds each.

    Raises:
        MvigNasError: the package is no classifier, of other classes than the images, or cannot be executed.
    """
    program = SavedProgram(package)
    if not program.labels:
        names = ", ".join(program.output_names)
        raise MvigNasError(
            f"a package to evaluate must be a classifier with `{LABEL_NAME}`, got outputs {names} in "
            f"{program.package}; export the model's folder, or give --labels."
        )
    check_classes(images, program.labels)
    stated = program.metadata.get(METADATA_PREFIX + PREPROCESSING)
    preprocessing = (
        Preprocessing()
        if stated is None
        else values.read(Preprocessing, json.loads(stated), f"the preprocessing in {package}")
    )
    declared = program.features.input[0].type
    takes_pixels = declared.WhichOneof("Type") == "imageType"
    side = int(declared.imageType.height if takes_pixels else declared.multiArrayType.shape[-1])
    if takes_pixels:
        preprocessing = replace(preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    columns = [program.labels.index(name) for name in images.classes]
    tally = Tally(len(columns))
    for batch, targets in EvaluationImages(images, preprocessing, side, 1, workers=workers):
        given = (batch * PIXEL_MAXIMUM).round().clamp(0, PIXEL_MAXIMUM) if takes_pixels else batch.half().float()
        found = run(program, {INPUT_NAME: given}, precision)[PROBABILITIES_NAME]
        assert isinstance(found, torch.Tensor)
        tally.add(found[:, columns], targets)
    return tally.accuracy
