"""What has been published of a MobileViG preset's latency, to stand beside a prediction."""

import csv
from dataclasses import dataclass

from mvig_nas import shipped
from mvig_nas.architecture import PRESETS, Architecture


@dataclass(frozen=True)
class PublishedLatency:
    """One published measurement, with its source."""

    device: str
    latency_ms: float
    reported_by: str
    source: str


def published_latencies(architecture: Architecture, device: str) -> list[PublishedLatency]:
    """Measurements of this architecture on this device, none where it is no preset."""
    names = [name for name, preset in PRESETS.items() if preset == architecture]
    path = shipped.folder("predictors") / "published" / "measurements.csv"
    if not names or not path.is_file():
        return []
    network = f"{names[0]}@{architecture.resolution}"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == network and row["device"] == device]
    return [
        PublishedLatency(row["device"], float(row["latency_ms"]), row["reported_by"], row["source"]) for row in rows
    ]
