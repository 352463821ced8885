"""What a 1.0 ms search costs in `vig-family` next to `mobilevig`, in pairs of equal seed.

Run: python -m benchmarks.family_search --out results/family
Writes search.csv: per seed the CPU seconds of both searches, their ratio (at most 1.5), and both winners' predicted
latencies and scores. CPU time is this process's own, on one thread.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch

from mvig_nas import scores
from mvig_nas.budget import Budget
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.search import search
from mvig_nas.search_space import SearchSpace


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=80)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(arguments.seeds):
        row: dict[str, object] = {"seed": seed, "evaluations": arguments.evaluations}
        for name in ("mobilevig", "vig-family"):
            began = time.process_time()
            study = search(
                SearchSpace.load(name),
                scores.load(scores.DEFAULT, seed=seed),
                ArchitectureLatency.load("iphone-13-mini"),
                Budget(latency_ms=1.0),
                evaluations=arguments.evaluations,
                seed=seed,
            )
            winner = study.winner
            if winner is None or winner.score is None:
                raise SystemExit(f"seed {seed}: nothing inside the budget in {name}")
            row |= {
                f"{name}_seconds": round(time.process_time() - began, 1),
                f"{name}_ms": round(winner.latency_ms, 3),
                f"{name}_score": round(winner.score, 2),
                f"{name}_operators": " ".join(stage.graph_operator or "-" for stage in winner.architecture.stages),
            }
        row["ratio"] = round(float(str(row["vig-family_seconds"])) / float(str(row["mobilevig_seconds"])), 2)
        rows.append(row)
        print(row, flush=True)
    print("median ratio", statistics.median(float(str(row["ratio"])) for row in rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "search.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
