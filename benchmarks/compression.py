"""`python -m benchmarks.compression MODEL DATA [out.csv]`: what compressed weights cost a trained model in top-1.

MODEL is a folder that `retrain` leaves, DATA the images that hold its classes. The package in fp16 and each compressed
one classify the same 500 validation images, executed in fp16 by mvig-nas, not by Core ML. Ends with an error if 8 bits
of a palette cost more than 0.5 points.
"""

import sys
import tempfile
from pathlib import Path

from mvig_nas.coreml import Compression, ExportRequest, compress, export_target, package_accuracy
from mvig_nas.files import csv_text, save
from mvig_nas.image_data import read_split, subset
from mvig_nas.standard_error import standard_error

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 500
MOST_POINTS = 0.5
WAYS = (Compression(8), Compression(6), Compression(4), Compression(None, "int8"))


def main(model: Path, data: Path, out: Path) -> None:
    """Write one row a package."""
    images = subset(read_split(data, "val"), IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        whole = export_target(str(model), Path(folder) / "fp16.mlpackage", ExportRequest())
        found = {"fp16": (0, package_accuracy(whole.package, images).top1)}
        for way in WAYS:
            done = compress(whole.package, Path(folder) / f"{len(found)}.mlpackage", way, whole.network)
            found["fp16"] = (done.bytes_before, found["fp16"][1])
            found[way.name] = (done.bytes_after, package_accuracy(done.package, images).top1)
    before = found["fp16"][1]
    rows = [
        (
            name,
            weights,
            f"{100 * top1:.1f}",
            f"{100 * (before - top1):.1f}",
            f"{100 * standard_error(top1, IMAGES):.1f}",
        )
        for name, (weights, top1) in found.items()
    ]
    header = ("weights", "bytes of the weights file", "top-1 %", "points lost", "standard error of the top-1")
    save(out, csv_text([header, *rows]))
    print(out.read_text())
    points = 100 * (before - found[WAYS[0].name][1])
    if points > MOST_POINTS:
        sys.exit(f"8 bits must cost {MOST_POINTS} points at most, they cost {points:.1f}.")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3] if len(sys.argv) > 3 else ROOT / "results" / "packages" / "compression.csv"),
    )
