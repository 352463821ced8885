"""`python -m benchmarks.latency_new_chip [out]`: A15 as if it were new, predicted by a fit of A14 and k rows of A15.

The k rows and the rows predicted are of one laboratory (`known`), as where one measures a few networks on a phone of
one's own; or the k rows are of one laboratory and those predicted of all others (`unknown`), as with a shipped
predictor. Writes stranger.csv into results/latency_new_chip. It takes 1 minute of one core.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from mvig_nas.latency.latency_predictor import LatencyPredictor
from mvig_nas.latency.published import read_published

ROOT = Path(__file__).resolve().parent.parent
ROWS = (0, 1, 3, 5)
DRAWS = 20
LEAST = 10  # rows of a laboratory, so that some are left to predict


def main(out: Path) -> None:
    """Run everything."""
    rows = read_published(ROOT / "predictors" / "published")
    chips = np.array(rows.labels["chips"])
    pooled = LatencyPredictor(device="iphone-12-mini").fit_rows(rows.where(chips == "A14"))
    a15 = rows.where(chips == "A15")
    groups = np.array(a15.groups)
    names = sorted(name for name in set(a15.groups) if a15.groups.count(name) >= LEAST)
    lines = [["k", "laboratory", "median_error", "mean_error", "coverage_80"]]
    for k in ROWS:
        found: dict[str, list[np.ndarray]] = {"known": [], "unknown": []}
        for number, name in enumerate(names):
            for draw in range(DRAWS):
                generator = np.random.default_rng([number, draw])
                chosen = generator.permutation(np.flatnonzero(groups == name))[:k]
                moved = pooled.moved("iphone-13", a15.pick(chosen))
                seen = {a15.networks[row] for row in chosen}
                fresh = np.array([network not in seen for network in a15.networks])
                for label, mask in (("known", groups == name), ("unknown", groups != name)):
                    test = a15.where(mask & fresh)
                    group = name if label == "known" and k else None
                    low, high = moved.interval_from_features_ms(test.features, 0.8, group)
                    error = np.abs(moved.predict_from_features_ms(test.features, group) / test.latencies_ms - 1)
                    inside = (low <= test.latencies_ms) & (test.latencies_ms <= high)
                    found[label].append(np.stack([error, inside], axis=1))
        for label, parts in found.items():
            error, inside = np.concatenate(parts).T
            values = (np.median(error), error.mean(), inside.mean())
            lines.append([str(k), label, *(f"{value:.3f}" for value in values)])
            print(*lines[-1], flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "stranger.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "latency_new_chip")
