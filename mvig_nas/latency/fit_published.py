"""`python -m mvig_nas.latency.fit_published [folder]`: make the shipped predictors again from the shipped rows.

Reads `<folder>/published`, writes `<folder>/<device>` for each device. The error figures come from
`<folder>/published/errors.json`, which `benchmarks/latency_published.py` writes.
"""

import json
import sys
from pathlib import Path

from mvig_nas.latency.predictor import LatencyPredictor
from mvig_nas.latency.published import DEVICES, Measurements, read_published


def fit_published(rows: Measurements) -> LatencyPredictor:
    """One fit to all rows; `for_device` aims it at a device."""
    predictor = LatencyPredictor()
    return predictor.fit_from_features(
        rows.features, rows.latencies_ms, rows.groups, weights=rows.weights, families=rows.families
    )


def main(folder: Path) -> None:
    """Fit once, save for every device."""
    fitted = fit_published(read_published(folder / "published"))
    errors_file = folder / "published" / "errors.json"
    errors = json.loads(errors_file.read_text()) if errors_file.exists() else {}
    for device in DEVICES:
        predictor = fitted.for_device(device)
        predictor.errors_ = errors.get(device, {})
        predictor.save(folder / device)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "predictors"))
