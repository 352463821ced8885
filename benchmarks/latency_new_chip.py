"""`python -m benchmarks.latency_new_chip [out]`: A15 as if it were new, predicted by a fit of A14 and k rows of A15.

The k rows and the rows predicted are of one laboratory (`known`), as where one measures a few networks on a phone of
one's own; or the k rows are of one laboratory and those predicted of all others (`unknown`), as with a shipped
predictor. The k rows are drawn at random, or picked as `mvig-nas sample --spread latency` picks what to measure
(`picked`). Writes stranger.csv into results/latency_new_chip. It takes 1 minute of one core.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from mvig_nas.latency.latency_predictor import LatencyPredictor
from mvig_nas.latency.published import read_published
from mvig_nas.latency.rows import Rows
from mvig_nas.latency.selection import most_telling, uncertainty

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
    lines = [["k", "rows", "laboratory", "median_error", "mean_error", "coverage_80"]]
    still = pooled.moved("iphone-13", a15.pick([]))
    for k in ROWS:
        found: dict[tuple[str, str], list[np.ndarray]] = {}
        for number, name in enumerate(names):
            own = np.flatnonzero(groups == name)
            drawn = [np.random.default_rng([number, draw]).permutation(own)[:k] for draw in range(DRAWS)]
            picked = own[most_telling(uncertainty(a15.features[own], still), k)]
            for how, lists in (("drawn", drawn), ("picked", [picked] if k else [])):
                for chosen in lists:
                    for laboratory, mask in (("known", groups == name), ("unknown", groups != name)):
                        answered = answers(pooled, a15, chosen, mask, name if laboratory == "known" and k else None)
                        found.setdefault((how, laboratory), []).append(answered)
        for (how, laboratory), parts in found.items():
            error, inside = np.concatenate(parts).T
            values = (np.median(error), error.mean(), inside.mean())
            lines.append([str(k), how, laboratory, *(f"{value:.4f}" for value in values)])
            print(*lines[-1], flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "stranger.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def answers(pooled: LatencyPredictor, a15: Rows, chosen: np.ndarray, mask: np.ndarray, group: str | None) -> np.ndarray:
    """Relative errors, and whether the interval holds, of the fit moved by the chosen rows, (n, 2).

    Predicted are the rows of `mask` whose networks were not chosen.
    """
    moved = pooled.moved("iphone-13", a15.pick(chosen))
    seen = {a15.networks[row] for row in chosen}
    test = a15.where(mask & np.array([network not in seen for network in a15.networks]))
    low, high = moved.interval_from_features_ms(test.features, 0.8, group)
    error = np.abs(moved.predict_from_features_ms(test.features, group) / test.latencies_ms - 1)
    return np.stack([error, (low <= test.latencies_ms) & (test.latencies_ms <= high)], axis=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "latency_new_chip")
