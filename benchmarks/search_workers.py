"""What several processes bring to a search on one machine, and what proposing several networks a turn costs it.

    python -m benchmarks.search_workers batches    # regret by proposals a turn, on formulas; no network is built
    python -m benchmarks.search_workers speed      # one process against two, in pairs: ratios of wall and CPU seconds

Rows are appended to results/search_workers/*.jsonl, and what is there is not run again; both print their table.
"""

import argparse
import ctypes
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.search_quality import BUDGET_MS, OBJECTIVES, FormulaLatency, no_costs
from mvig_nas.budget import Budget
from mvig_nas.search import Study, search
from mvig_nas.search_space import SearchSpace

RESULTS = Path(__file__).parent.parent / "results" / "search_workers"
REFERENCES = RESULTS.parent / "search_quality" / "reference.json"
BATCHES = (1, 2, 4, 8)
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
EVALUATIONS = 80  # the default of a search


def regrets(seeds: int) -> None:
    """Search by every number of proposals a turn, and print how far the winners stay below the best score known."""
    path = RESULTS / "batches.jsonl"
    rows = _read(path)
    known = {(row["objective"], row["batch"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for objective in OBJECTIVES:
            for batch in BATCHES:
                if (objective.name, batch, seed) in known:
                    continue
                began = time.process_time()
                study = search(
                    SearchSpace.load("mobilevig"),
                    objective,
                    FormulaLatency(),
                    Budget(latency_ms=BUDGET_MS),
                    evaluations=EVALUATIONS,
                    seed=seed,
                    batch=batch,
                    costs=no_costs,
                )
                best = study.winner.score if study.winner is not None else None
                row = {"objective": objective.name, "batch": batch, "seed": seed, "best": best}
                rows.append(row | {"cpu_seconds": round(time.process_time() - began, 2)})
                _append(path, rows[-1])
    references = json.loads(REFERENCES.read_text())
    table = _Table(
        "objective", "proposals a turn", "regret, points", "against 1, paired", "CPU s of the sampler", "seeds"
    )
    for objective in OBJECTIVES:
        by_batch = {
            batch: {r["seed"]: r for r in rows if (r["objective"], r["batch"]) == (objective.name, batch)}
            for batch in BATCHES
        }
        for batch, mine in by_batch.items():
            regret = [references[objective.name] - row["best"] for row in mine.values()]
            apart = [mine[seed]["best"] - by_batch[1][seed]["best"] for seed in mine if seed in by_batch[1]]
            error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
            table.row(
                objective.name,
                batch,
                f"{statistics.mean(regret):.2f} ± {statistics.stdev(regret):.2f}",
                f"{statistics.mean(apart):+.2f} ± {error:.2f}",
                f"{statistics.mean(row['cpu_seconds'] for row in mine.values()):.1f}",
                len(mine),
            )
    print(table)


# name -> options, in the order of a pair; the first is what the others are compared with
KINDS = {
    "1 proposal a turn, 1 process": ("--batch", "1", "--workers", "1"),
    "4 proposals a turn, 1 process": ("--batch", "4", "--workers", "1"),
    "4 proposals a turn, 2 processes": ("--batch", "4", "--workers", "2"),
}


def speed(pairs: int) -> None:
    """Time the command by turns, and print medians of the ratios within each turn, and whether all found the same."""
    path = RESULTS / "speed.jsonl"
    rows = _read(path)
    for pair in range(len({row["pair"] for row in rows}), pairs):
        kinds = list(KINDS)
        for kind in kinds if pair % 2 == 0 else reversed(kinds):
            row = {"pair": pair, "kind": kind, **_timed(KINDS[kind])}
            rows.append(row)
            _append(path, row)
    by_kind = {kind: {row["pair"]: row for row in rows if row["kind"] == kind} for kind in KINDS}
    heads = ("search", "wall s", "CPU s", *(f"wall, ratio to {kind!r}" for kind in list(KINDS)[:2]), "pairs")
    table = _Table(*heads)
    for kind, mine in by_kind.items():
        ratios = [
            statistics.median(row["wall_s"] / by_kind[other][pair]["wall_s"] for pair, row in mine.items())
            for other in list(KINDS)[:2]
        ]
        medians = [statistics.median(row[name] for row in mine.values()) for name in ("wall_s", "cpu_s")]
        table.row(kind, *(f"{value:.1f}" for value in medians), *(f"{ratio:.2f}" for ratio in ratios), len(mine))
    print(table)
    found = {kind: {row["study"] for row in mine.values()} for kind, mine in by_kind.items()}
    _, one, two = found.values()
    print(f"\nOne process and two found the same candidates and scores, to the bit: {one == two and len(one) == 1}.")


def _timed(options: tuple[str, ...]) -> dict[str, Any]:
    """Seconds of the default search by 1.0 ms, with its imports, and a digest of what it found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "mvig_nas", "search", "--latency-budget", "1.0ms", "--out", str(out), *options]
        # processes that outlive the one that waits for them are counted as well
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
        before, began = os.times(), time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        wall_s = time.monotonic() - began
        with suppress(ChildProcessError):
            while os.wait():
                pass
        after = os.times()
        candidates = sorted(Study.load(out).candidates, key=lambda candidate: candidate.order)
    study = [(c.fingerprint, c.round, c.position, None if c.score is None else c.score.hex()) for c in candidates]
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    digest = hashlib.sha256(json.dumps(study).encode()).hexdigest()[:16]
    return {"wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2), "load": round(os.getloadavg()[0], 1), "study": digest}


class _Table:
    """Lines of Markdown."""

    def __init__(self, *heads: str) -> None:
        self._lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]

    def row(self, *cells: object) -> None:
        """Add one row."""
        self._lines.append(f"| {' | '.join(map(str, cells))} |")

    def __str__(self) -> str:
        return "\n".join(self._lines)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    """Run what is missing of one part, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["batches", "speed"])
    parser.add_argument("--seeds", type=int, default=10, help="seeds of `batches`")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of `speed`")
    arguments = parser.parse_args()
    if arguments.part == "batches":
        regrets(arguments.seeds)
    else:
        speed(arguments.pairs)


if __name__ == "__main__":
    main()
