"""Image folders to batches, each a pure function of seeds and of its number, whatever the number of workers."""

from mvig_nas.image_data.batches import EvaluationImages, TrainingImages, seeded
from mvig_nas.image_data.folders import (
    LabelledImages,
    check_classes,
    check_same_classes,
    hold_out,
    read_parts,
    read_split,
    share,
    subset,
    with_unlabelled,
)
from mvig_nas.image_data.splitting import Split, is_split, split_images
from mvig_nas.image_data.transforms import resized, training_transform
from mvig_nas.recipes import Preprocessing

__all__ = [
    "EvaluationImages",
    "LabelledImages",
    "Preprocessing",
    "Split",
    "TrainingImages",
    "check_classes",
    "check_same_classes",
    "hold_out",
    "is_split",
    "read_parts",
    "read_split",
    "resized",
    "seeded",
    "share",
    "split_images",
    "subset",
    "training_transform",
    "with_unlabelled",
]
