"""Published latencies of MobileViGv2, predicted by the shipped predictors, which were fitted without them.

Run: python -m benchmarks.latency_family --out results/family
Writes latency.csv: published and predicted milliseconds of the authors' form of the network, interval and error; the
same of the form that `export` writes, of which nothing is published; and what the prediction rests on no measurement
of.
"""

import argparse
import csv
from importlib.metadata import version
from pathlib import Path

from mvig_nas.architecture import preset
from mvig_nas.latency import ArchitectureLatency

DEVICE = "iphone-13-mini"
# Abstract of arXiv 2406.05850 (CVPRW 2024), iPhone 13 Mini NPU; M and S are in no source that could be read.
PUBLISHED_MS = {"mobilevigv2_ti": 0.9, "mobilevigv2_b": 2.7}
# MobileViG's own authors, the same phone (arXiv 2307.00395); among the fitted rows, for comparison.
FITTED_MS = {"mobilevig_ti": 0.78, "mobilevig_b": 2.30}


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    print(", ".join(f"{name} {version(name)}" for name in ("mvig-nas", "numpy", "scikit-learn")))
    latency = ArchitectureLatency.load(DEVICE)
    reference = latency.with_form("reference")
    rows = []
    for name, published_ms in (PUBLISHED_MS | FITTED_MS).items():
        network = preset(name)
        predicted_ms = float(reference.predict_ms([network])[0])
        low_ms, high_ms = (float(bound[0]) for bound in reference.interval_ms([network], 0.8))
        rows.append(
            {
                "network": name,
                "device": DEVICE,
                "fitted": name in FITTED_MS,
                "published_ms": published_ms,
                "predicted_ms": round(predicted_ms, 3),
                "error_percent": round(100 * (predicted_ms / published_ms - 1), 1),
                "low80_ms": round(low_ms, 3),
                "high80_ms": round(high_ms, 3),
                "exported_ms": round(float(latency.predict_ms([network])[0]), 3),
                "outside": "; ".join(reference.outside([network])[0]),
            }
        )
        print(rows[-1])
    out.mkdir(parents=True, exist_ok=True)
    with (out / "latency.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
