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
from mvig_nas.image_data.skipping import (
    BadImage,
    bad_images,
    read_skipped,
    skipped_line,
    usable,
    without,
    write_skipped,
)
from mvig_nas.image_data.splitting import Split, is_split, link_usable, split_images
from mvig_nas.image_data.transforms import resized, training_transform
from mvig_nas.recipes import Preprocessing

__all__ = [
    "BadImage",
    "EvaluationImages",
    "LabelledImages",
    "Preprocessing",
    "Split",
    "TrainingImages",
    "bad_images",
    "check_classes",
    "check_same_classes",
    "hold_out",
    "is_split",
    "link_usable",
    "read_parts",
    "read_skipped",
    "read_split",
    "resized",
    "seeded",
    "share",
    "skipped_line",
    "split_images",
    "subset",
    "training_transform",
    "usable",
    "with_unlabelled",
    "without",
    "write_skipped",
]
