"""A 1.0 ms search in the default space, seed by seed: against the published networks and random search of equal size.

Run: python -m benchmarks.search_1ms --out results/search_1ms
Writes table.csv: per seed the winner's predicted latency, interval and score, the best score of random search with as
many evaluations, and the scores of the published networks under the same seed.
"""

import argparse
import csv
import time
from pathlib import Path

from mvig_nas import scores, shipped
from mvig_nas.architecture import PRESETS
from mvig_nas.budget import Budget
from mvig_nas.cli.options import DEFAULT_DEVICE
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor
from mvig_nas.search import search
from mvig_nas.search_space import SearchSpace


def main() -> None:
    """Search, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=80)
    parser.add_argument("--score", default=scores.DEFAULT)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    space = SearchSpace.from_toml(shipped.space_path("mobilevig"))
    latency = ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder(DEFAULT_DEVICE)))
    rows = []
    for seed in range(arguments.seeds):
        score = scores.load(arguments.score, seed=seed)
        row: dict[str, object] = {"seed": seed, "score": score.name, "evaluations": arguments.evaluations}
        for sampler in ("auto", "random"):
            began = time.perf_counter()
            study = search(
                space,
                score,
                latency,
                Budget(latency_ms=1.0),
                evaluations=arguments.evaluations,
                sampler=sampler,
                seed=seed,
            )
            winner = study.winner
            if winner is None or winner.score is None or winner.interval_ms is None:
                raise SystemExit(f"seed {seed}: {sampler} found nothing inside the budget")
            # The published networks are proposed to every sampler first, so random search's own best is the rest's.
            own = [c for c in study.candidates if c.score is not None and c.architecture not in PRESETS.values()]
            row |= {
                f"{sampler}_score": max(c.score for c in own if c.score is not None),
                f"{sampler}_judged": study.judged,
                f"{sampler}_seconds": round(time.perf_counter() - began, 1),
            }
            if sampler == "auto":
                row |= {
                    "winner": winner.fingerprint,
                    "winner_ms": winner.latency_ms,
                    "winner_low_ms": winner.interval_ms[0],
                    "winner_high_ms": winner.interval_ms[1],
                }
        row |= {name: score(architecture) for name, architecture in PRESETS.items()}
        rows.append(row)
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for rival in ("random_score", *PRESETS):
        wins = sum(float(str(row["auto_score"])) > float(str(row[rival])) for row in rows)
        print(f"winner above {rival}: {wins} of {len(rows)} seeds")


if __name__ == "__main__":
    main()
