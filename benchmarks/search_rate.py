"""Candidates a second with a score that costs nothing: what searching and storing add to a score.

    OMP_NUM_THREADS=1 python benchmarks/search_rate.py

Every sampler searches the shipped space with a shipped predictor, once in memory and once with a durable study. Counted
are the recorded candidates; `judged` counts those too that a sampler held against the budget without proposing them.
A study keeps whole trials in Optuna's journal. For comparison, Optuna is then asked and told trial by trial, which
writes once per parameter.
"""

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mvig_nas import shipped
from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.latency import LatencyPredictor
from mvig_nas.latency.per_architecture import ArchitectureLatency
from mvig_nas.search import Study, search
from mvig_nas.search_space import SearchSpace

RESULTS = Path(__file__).parent.parent / "results" / "search_rate"
FLOOR = 200.0  # candidates a second
DEFAULT = "surrogate"
DEVICE = "iphone-13-mini"
OPTUNA_TRIALS = 20


class Depth:
    """A score that costs nothing."""

    name = "depth"

    def __call__(self, architecture: Architecture) -> float:
        """Blocks times width."""
        return float(sum(s.width * (s.conv_depth + s.graph_depth) for s in architecture.stages))


def timed(sampler: str, evaluations: int, latency: ArchitectureLatency, folder: Path | None) -> tuple[Study, float]:
    """A search and its seconds."""
    space = SearchSpace.from_toml(shipped.space_path("mobilevig"))
    began = time.perf_counter()
    study = search(
        space, Depth(), latency, Budget(latency_ms=1.0), evaluations=evaluations, sampler=sampler, folder=folder
    )
    return study, time.perf_counter() - began


def optuna_rate() -> float:
    """Trials a second of Optuna's journal storage, asked for the same parameters."""
    space = SearchSpace.from_toml(shipped.space_path("mobilevig"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        storage = JournalStorage(JournalFileBackend(f"{folder}/study.journal"))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
        began = time.perf_counter()
        for _ in range(OPTUNA_TRIALS):
            trial = study.ask()
            for name, choices in space.choices.items():
                trial.suggest_categorical(name, choices)
            study.tell(trial, 0.0)
        return OPTUNA_TRIALS / (time.perf_counter() - began)


def main() -> None:
    """Print the table and write it to results/search_rate/README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=1000)
    arguments = parser.parse_args()
    latency = ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder(DEVICE)))
    timed("evolution", 50, latency, None)  # imports, and the predictor's table of blocks
    lines = [
        "| sampler | recorded | judged | in memory, recorded/s | durable, recorded/s | durable, judged/s | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    rates = {}
    for sampler in ("surrogate", "evolution", "random", "nsga2"):
        _, plain_s = timed(sampler, arguments.evaluations, latency, None)
        with tempfile.TemporaryDirectory() as folder:
            study, durable_s = timed(sampler, arguments.evaluations, latency, Path(folder) / "run")
        recorded = len(study.candidates)
        rates[sampler] = study.judged / durable_s
        lines.append(
            f"| {sampler} | {recorded:,} | {study.judged:,} | {recorded / plain_s:,.0f} | {recorded / durable_s:,.0f} "
            f"| {study.judged / durable_s:,.0f} | {plain_s / durable_s:.2f} |"
        )
    lines.append(f"\nOptuna asked and told, one write per parameter: {optuna_rate():.1f} trials/s.")
    table = "\n".join(lines)
    print(table)
    verdict = "met" if rates[DEFAULT] >= FLOOR else "MISSED"
    print(
        f"budget: {FLOOR:.0f} candidates judged a second, the default sampler judges {rates[DEFAULT]:,.0f}: {verdict}"
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "README.md").write_text(
        f"# Search rate\n\nA score that costs nothing, the {DEVICE} predictor, space `mobilevig`, budget 1.0 ms, "
        f"{arguments.evaluations:,} evaluations, seed 0.\n`recorded` are proposals, scored or rejected; `judged` "
        "counts also what a sampler held against the budget unproposed.\nThe ratio is durable over in memory."
        f"\n\n{table}\n\nBudget (the default sampler judges at least {FLOOR:.0f} candidates/s): {verdict}.\n\n"
        "Command: `OMP_NUM_THREADS=1 python benchmarks/search_rate.py`, one core of a shared two-core machine. "
        f"Python {platform.python_version()}, optuna {version('optuna')}, numpy {version('numpy')}.\n"
    )


if __name__ == "__main__":
    main()
