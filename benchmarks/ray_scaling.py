"""What Ray adds to a score, how two workers compare with one, and how many workers one search could feed.

    OMP_NUM_THREADS=1 python benchmarks/ray_scaling.py

Two workers on two cores are measured; more are extrapolated from what the driver costs.
"""

import argparse
import csv
import logging
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray import tune

from mvig_nas import scores, shipped
from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.latency import LatencyPredictor
from mvig_nas.latency.per_architecture import ArchitectureLatency
from mvig_nas.scores import Score
from mvig_nas.search import search
from mvig_nas.search.contracts import Outcome
from mvig_nas.search.evaluators.local import LocalEvaluator
from mvig_nas.search.evaluators.ray_actors import RayEvaluator
from mvig_nas.search_space import SearchSpace

RESULTS = Path(__file__).parent.parent / "results" / "scaling"
DEVICE = "iphone-13-mini"
SEED = 0
SPEEDUP = 1.6
OVERHEAD_MS = 20.0
TUNE_TRIALS = 8
SIMULATED_WORKERS = 100
SIMULATED_BATCH = 200

Row = tuple[str, float, str]


class Depth:
    """Blocks times width, after a pause of `seconds`."""

    name = "depth"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, architecture: Architecture) -> float:
        """The score."""
        time.sleep(self.seconds)
        return float(sum(s.width * (s.conv_depth + s.graph_depth) for s in architecture.stages))


class Accounted:
    """An evaluator's clock: what is spent in it, of the wall clock and of this process's CPU."""

    def __init__(self, evaluator: RayEvaluator) -> None:
        self.name = evaluator.name
        self.evaluator = evaluator
        self.wall_s = self.cpu_s = 0.0

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        """As the evaluator; what is outside is the sampler's and the journal's."""
        began, cpu = time.perf_counter(), time.process_time()
        outcomes = list(self.evaluator(architectures, is_over))
        self.wall_s += time.perf_counter() - began
        self.cpu_s += time.process_time() - cpu
        yield from outcomes


def space() -> SearchSpace:
    """The shipped one."""
    return SearchSpace.from_toml(shipped.space_path("mobilevig"))


def architectures(count: int) -> list[Architecture]:
    """Drawn uniformly."""
    rng = random.Random(SEED)
    return [space().sample(rng) for _ in range(count)]


def seconds_of(evaluator: Any, asked: Sequence[Architecture]) -> float:
    """Wall time of scoring them all."""
    began = time.perf_counter()
    outcomes = list(evaluator(asked, lambda: False))
    took = time.perf_counter() - began
    failed = [outcome.reason for outcome in outcomes if outcome.score is None]
    if failed or len(outcomes) != len(asked):
        raise SystemExit(f"{len(outcomes)} outcomes of {len(asked)}, {len(failed)} failed: {failed[:1]}")
    return took


def scaling(name: str, score: Score, count: int) -> list[Row]:
    """One worker against two, over the same architectures."""
    asked = architectures(count)
    rows: list[Row] = []
    took = {}
    for workers in (1, 2):
        with RayEvaluator(score, workers=workers) as evaluator:
            while sum(worker.stage == "ready" for worker in evaluator._workers) < workers:
                list(evaluator(asked[:1], lambda: False))
            took[workers] = seconds_of(evaluator, asked)
        rows.append((f"{name}, workers {workers}: evaluations a second", count / took[workers], "1/s"))
    rows.append((f"{name}, two workers over one", took[1] / took[2], "ratio"))
    return rows


def overhead(count: int) -> list[Row]:
    """Wall time that Ray adds to an evaluation: in a turn of many, and alone in a turn."""
    asked = architectures(count)
    rows: list[Row] = []
    for name, pause_s in (("that costs nothing", 0.0), ("of 1 ms", 0.001)):
        score = Depth(pause_s)
        here_s = seconds_of(LocalEvaluator(score), asked)
        with RayEvaluator(score, workers=1) as evaluator:
            list(evaluator(asked[:1], lambda: False))
            there_s = seconds_of(evaluator, asked)
        rows.append(
            (f"overhead per evaluation, a score {name}, in a turn of many", 1000 * (there_s - here_s) / count, "ms")
        )
    with RayEvaluator(Depth(1.0), workers=1) as evaluator:
        list(evaluator(asked[:1], lambda: False))
        gaps_s, last = [], time.perf_counter()
        for outcome in evaluator(asked[:9], lambda: False):
            now = time.perf_counter()
            gaps_s.append(now - last - outcome.seconds)
            last = now
    rows.append(("overhead per evaluation, a score of 1 s, one by one, median", 1000 * median(gaps_s), "ms"))
    return rows


def tune_trial() -> list[Row]:
    """Seconds of a Tune trial that does nothing, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tuner = tune.Tuner(
            lambda _: {"score": 1.0},
            param_space={"x": tune.grid_search(list(range(TUNE_TRIALS)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        if tuner.fit().num_errors:
            raise SystemExit("Tune's trials failed")
        return [("Ray Tune, a trial that does nothing", (time.perf_counter() - began) / TUNE_TRIALS, "s")]


def driver(evaluations: int) -> list[Row]:
    """What one driver spends on an evaluation, and how many workers that feeds.

    The evaluations themselves cost nothing, so the wall time is the driver's: sampler, journal, and Ray's calls.
    """
    latency = ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder(DEVICE)))
    score = Depth()
    with RayEvaluator(score, workers=1) as evaluator, tempfile.TemporaryDirectory() as folder:
        accounted = Accounted(evaluator)
        began, cpu = time.perf_counter(), time.process_time()
        study = search(
            space(),
            score,
            latency,
            Budget(latency_ms=1.0),
            evaluations=evaluations,
            sampler="surrogate",
            seed=SEED,
            batch=SIMULATED_BATCH,
            folder=Path(folder) / "study",
            evaluator=accounted,
        )
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    outside_s = (wall_s - accounted.wall_s) / study.evaluated
    # an evaluation is a call of its own
    with RayEvaluator(score, workers=1) as evaluator:
        cpu, calls = time.process_time(), 200
        for architecture in architectures(calls):
            list(evaluator([architecture], lambda: False))
        call_s = (time.process_time() - cpu) / calls
    rows: list[Row] = [
        (f"sampler and journal per evaluation (surrogate, batch {SIMULATED_BATCH})", 1000 * outside_s, "ms"),
        ("driver CPU per evaluation, all of the search", 1000 * cpu_s / study.evaluated, "ms"),
        ("driver CPU per call to a worker", 1000 * call_s, "ms"),
    ]
    for each_s in (1.0, 10.0):
        # while the sampler thinks the workers wait, since it must know the whole turn
        turn_s = max(SIMULATED_BATCH / SIMULATED_WORKERS * each_s, SIMULATED_BATCH * call_s)
        busy = SIMULATED_BATCH * each_s / (turn_s + SIMULATED_BATCH * outside_s) / SIMULATED_WORKERS
        rows.append((f"extrapolated: {SIMULATED_WORKERS} workers, score of {each_s:g} s, share of time busy", busy, ""))
        # a batch of two each: half of the time is theirs when a turn takes as long as the driver needs for it
        half = each_s / (outside_s + call_s)
        rows.append((f"extrapolated: workers kept busy half of the time, score of {each_s:g} s", half, "workers"))
    return rows


def main() -> None:
    """Print the table and write it to results/scaling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=1200, help="of the search that gives the driver's cost")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rows = scaling("sleeps 1 s", Depth(1.0), 16)
    rows += scaling("naswot", scores.load("naswot"), 16)
    rows += overhead(2000)
    rows += driver(arguments.evaluations)
    rows += tune_trial()
    ray.shutdown()
    figures = {name: value for name, value, _ in rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "scaling.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("figure", "value", "unit"))
        writer.writerows((name, f"{value:.4g}", unit) for name, value, unit in rows)
    table = "\n".join(
        ["| figure | value |", "|---|---|", *(f"| {name} | {value:.3g} {unit} |" for name, value, unit in rows)]
    )
    speedup, overhead_ms = (
        figures["sleeps 1 s, two workers over one"],
        figures["overhead per evaluation, a score of 1 ms, in a turn of many"],
    )
    verdicts = (
        f"Two workers over one for a score of 1 s (floor {SPEEDUP}): {speedup:.2f}, "
        f"{'met' if speedup >= SPEEDUP else 'MISSED'}.\n"
        f"Overhead of an evaluation in a turn of many (at most {OVERHEAD_MS:.0f} ms): {overhead_ms:.2f} ms, "
        f"{'met' if overhead_ms <= OVERHEAD_MS else 'MISSED'}."
    )
    text = f"{table}\n\n{verdicts}"
    print(text)
    (RESULTS / "README.md").write_text(
        "# Scaling over Ray workers\n\n"
        f"{text}\n\n"
        "Workers are Ray actors that are told which architectures to score; a score that sleeps shows what Ray leaves "
        "of\ntwo workers, `naswot` (CPU-bound, one thread) what two cores do, while the driver and Ray's own processes "
        "share\nthem. A Tune trial for each candidate would cost the last line each time, which is why there is none."
        "\n\nThe lines called extrapolated are arithmetic, not measurements: a turn of "
        f"{SIMULATED_BATCH} proposals is scored in {SIMULATED_BATCH // SIMULATED_WORKERS} rounds,\nthe workers wait "
        "while the sampler works and the journal is written, and all evaluations take equally long. With\nunequal ones "
        "the workers also wait for the last of a turn.\n\n"
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/ray_scaling.py --evaluations {arguments.evaluations}`, seed "
        f"{SEED}, space `mobilevig`,\npredictor {DEVICE}, {os.cpu_count()} cores of a shared machine, load {load:.1f} "
        f"when it began. Python {platform.python_version()},\nray {version('ray')}, torch {version('torch')}, optuna "
        f"{version('optuna')}.\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
