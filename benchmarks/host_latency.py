"""Predictors fitted to measurements of this computer's CPU: how many rows they need, and for which networks they hold.

Run: python -m benchmarks.host_latency measure   # about 40 minutes of one core; leave the others idle
     python -m benchmarks.host_latency report    # about 30 minutes of one core, from the logs alone
     python -m benchmarks.host_latency own       # own_fit and calibration.png, 4 minutes of one core

`measure` appends to mobilevig.jsonl (300 architectures to learn from and 60 others, a third each of toy, micro and
mobilevig-ti, drawn uniformly) and to timm.jsonl (97 models at their own resolution). `report` fits them:

* 150 architectures, at random or the most telling of the 300, predict the 60 others, beside the baselines;
* the learning curve, with and without the start from the shipped iPhone predictor, and the baselines';
* timm's models, a family left out at a time, and the 60 architectures by a fit that saw no architecture.

`own` is the part of the learning curve that compares the fit from scratch with the baselines on uniform draws.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvig_nas import device_log, shipped
from mvig_nas.architecture import Architecture, preset
from mvig_nas.files import save
from mvig_nas.latency import LatencyPredictor, fit_device
from mvig_nas.latency.card import evaluate, evaluation_lines, rows_of
from mvig_nas.latency.held_out import BASELINES, OWN, HeldOut, answers_of_fit, family_folds, figures
from mvig_nas.latency.rows import Rows
from mvig_nas.latency.selection import most_telling, uncertainty
from mvig_nas.measure import MeasureSettings, Target, TorchCpu, measure, timm_target
from mvig_nas.plots import figure_axes, png
from mvig_nas.report.figures import calibration_png
from mvig_nas.search_space import SearchSpace
from mvig_nas.values import without_nan

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "results" / "host_cpu"
SPACES = ("toy", "micro", "mobilevig-ti")
POOL_SEED, TEST_SEED = 1, 7
POOL, TEST, TRAIN = 100, 20, 50  # of each space
SIZES = (5, 10, 20, 40, 80, 150, 300)
DRAWS = 5
PHONE = "iphone-13-mini"
HOST = "one core, torch"
TIMM = (ROOT / "benchmarks" / "data" / "host_timm.txt").read_text().split()
SCRATCH, KIN = "scratch", "timm models on this CPU"
COLORS = {
    SCRATCH: "#9fb0c3",
    PHONE: "#00798c",
    KIN: "#d1495b",
    **dict(zip(BASELINES, ("#6b7a3a", "#c9a227"), strict=True)),
}


@dataclass(frozen=True)
class Split:
    """Rows to learn from, by position, and rows to be predicted."""

    rows: Rows
    pool: list[int]
    test: list[int]


def drawn(seed: int, number: int) -> list[Architecture]:
    """As `mvig-nas sample` draws them."""
    found = []
    for name in SPACES:
        space, rng = SearchSpace.from_toml(shipped.space_path(name)), random.Random(seed)
        of_space: dict[Architecture, None] = {}
        while len(of_space) < number:
            of_space[space.sample(rng)] = None
        found += list(of_space)
    return found


def measure_all(out: Path) -> None:
    """Both logs; what they hold is not measured again."""
    out.mkdir(parents=True, exist_ok=True)
    architectures = [preset("mobilevig_ti"), *drawn(POOL_SEED, POOL), *drawn(TEST_SEED, TEST)]
    settings = {"cool_down_s": 0.02, "pause_s": 10.0}
    measure(
        [timm_target(name) for name in TIMM],
        TorchCpu(),
        out / "timm.jsonl",
        MeasureSettings(8, 8, **settings),
        on_progress=_show,
    )
    measure(
        [Target(each) for each in architectures],
        TorchCpu(),
        out / "mobilevig.jsonl",
        MeasureSettings(10, 20, **settings),
        on_progress=_show,
    )  # fmt: skip


def _show(state: Any) -> None:
    if "pause" in state.now or state.done % 100 == 0:
        print(f"{state.done} of {state.total}: {state.now}", flush=True)


def split(log: Path) -> Split:
    """The log's rows, those of the test draw apart; the pool in the order drawn, the spaces taking turns."""
    rows = rows_of(device_log.read(log))
    row_of = {label: row for row, label in enumerate(rows.networks)}
    pool = drawn(POOL_SEED, POOL)
    turns = [pool[space * POOL + turn] for turn in range(POOL) for space in range(len(SPACES))]
    test = [row_of[each.fingerprint] for each in drawn(TEST_SEED, TEST)]
    return Split(rows, [row_of[each.fingerprint] for each in turns], test)


def predicted(rows: Rows, train: Sequence[int], test: Sequence[int], start: LatencyPredictor | None) -> HeldOut:
    """Answers of a fit to `train` for `test`."""
    return answers_of_fit(rows.pick(train), rows.pick(test), start, seed=0)


def fixed_split(data: Split) -> tuple[dict[str, Any], HeldOut]:
    """150 rows drawn uniformly, and the 150 most telling of the 300, against 60 others, beside the baselines."""
    measured = data.rows.latencies_ms[data.test]
    train = data.pool[: TRAIN * len(SPACES)]
    own = predicted(data.rows, train, data.test, None)
    found = {f"{OWN}, 150 uniform": figures(measured, own)}
    telling = [data.pool[index] for index in order(data, None)[: len(train)]]
    found[f"{OWN}, 150 most telling"] = figures(measured, predicted(data.rows, telling, data.test, None))
    found[f"{OWN}, 150 uniform, from {PHONE}"] = figures(measured, predicted(data.rows, train, data.test, phone()))
    known, strangers = data.rows.pick(train), data.rows.pick(data.test)
    for name, baseline in BASELINES.items():
        answer = baseline().fit(known.kernels, known.latencies_ms).predict_ms(strangers.kernels)
        found[f"{name}, 150 uniform"] = figures(measured, HeldOut.without_interval(answer))
    return found, own


def phone() -> LatencyPredictor:
    """The shipped predictor that transfers start from."""
    return LatencyPredictor.load(shipped.predictor_folder(PHONE))


def order(data: Split, start: LatencyPredictor | None) -> list[int]:
    """Positions in the pool, the most telling first."""
    return most_telling(uncertainty(data.rows.pick(data.pool).features, start), len(data.pool))


def curve(
    data: Split, starts: Mapping[str, LatencyPredictor | None], ways: Sequence[str] = ("uniform", "telling")
) -> list[dict[str, Any]]:
    """Errors on the 60 others by number of rows: uniform draws (mean over 5) and the most telling, by start."""
    points = []
    measured = data.rows.latencies_ms[data.test]
    shuffled = [random.Random(seed).sample(data.pool, len(data.pool)) for seed in range(DRAWS)]
    for name, start in starts.items():
        lists_of = {"uniform": shuffled}
        if "telling" in ways:
            lists_of["telling"] = [[data.pool[index] for index in order(data, start)]]
        for size in SIZES:
            for how in ways:
                lists = lists_of[how]
                answers = [predicted(data.rows, each[:size], data.test, start) for each in lists]
                scores = [figures(measured, answer) for answer in answers]
                mean = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
                points.append({"rows": size, "start": name, "picked": how, "draws": len(lists), **mean})
                print(points[-1], flush=True)
    for name, baseline in BASELINES.items():
        for size in SIZES:
            scores = []
            for each in shuffled:
                known = data.rows.pick(each[:size])
                answer = baseline().fit(known.kernels, known.latencies_ms)
                answered_ms = answer.predict_ms(data.rows.pick(data.test).kernels)
                scores.append(figures(measured, HeldOut.without_interval(answered_ms)))
            mean = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
            values = {**mean, "interval_coverage_80": float("nan")}
            points.append({"rows": size, "start": name, "picked": "uniform", "draws": len(shuffled), **values})
            print(points[-1], flush=True)
    return points


def curve_png(points: Sequence[dict[str, Any]]) -> bytes:
    """MAPE by number of rows: a colour for each start, dashed for uniform draws."""
    figure, axes = figure_axes("architectures measured", "mean error on 60 others (%)")
    for start, color in COLORS.items():
        for how, style in (("uniform", "--"), ("telling", "-")):
            own = [point for point in points if point["picked"] == how and point["start"] == start]
            if not own:
                continue
            begin = start if start in BASELINES else f"from {start}"
            label = f"{begin}, {'uniform draws' if how == 'uniform' else 'the most telling'}"
            errors = [100 * point["mape"] for point in own]
            axes.plot([point["rows"] for point in own], errors, style, marker="o", color=color, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(SIZES), [str(size) for size in SIZES])
    ticks = [2, 3, 5, 10, 20, 50]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    return png(figure)


def report(out: Path) -> None:
    """Everything from the two logs, into figures.json, learning_curve.csv, timm.md and plots."""
    data = split(out / "mobilevig.jsonl")
    timm_rows = rows_of(device_log.read(out / "timm.jsonl"))
    fixed, own = fixed_split(data)
    print(json.dumps(without_nan(fixed), indent=1), flush=True)
    save(out / "calibration.png", calibration_png(data.rows.latencies_ms[data.test], own, HOST))
    evaluation, answers = evaluate(timm_rows, family_folds(timm_rows), None, seed=0, how="leave one family out")
    save(out / "timm.md", "# timm models on this CPU\n\n" + "\n".join(evaluation_lines(evaluation)) + "\n")
    save(out / "timm_calibration.png", calibration_png(timm_rows.latencies_ms, answers, HOST))
    print((out / "timm.md").read_text(), flush=True)
    fitted = fit_device(
        timm_rows.kernels, timm_rows.latencies_ms, timm_rows.group, families=timm_rows.families
    ).predictor
    strangers = data.rows.pick(data.test)
    measured = strangers.latencies_ms
    alien = answers_of_fit(timm_rows, strangers, None, seed=0)
    values = {
        "150 architectures, 60 others": fixed,
        "timm, a family left out": evaluation["figures"],
        "60 architectures by a fit to timm alone": figures(measured, alien),
    }
    save(out / "figures.json", json.dumps(without_nan(values), indent=1) + "\n")
    points = curve(data, {SCRATCH: None, PHONE: phone(), KIN: fitted})
    save(out / "learning_curve.csv", points_csv(points))
    save(out / "learning_curve.png", curve_png(points))


def own(out: Path) -> None:
    """The fit from scratch beside the baselines: 150 rows in own_fit.json and calibration.png, its curve in own_fit."""
    data = split(out / "mobilevig.jsonl")
    fixed, answers = fixed_split(data)
    save(out / "own_fit.json", json.dumps(without_nan(fixed), indent=1) + "\n")
    save(out / "calibration.png", calibration_png(data.rows.latencies_ms[data.test], answers, HOST))
    points = curve(data, {SCRATCH: None}, ("uniform",))
    save(out / "own_fit.csv", points_csv(points))
    save(out / "own_fit.png", curve_png(points))


def points_csv(points: Sequence[dict[str, Any]]) -> str:
    """One line a point."""
    names = list(points[0])
    lines = [",".join(names)] + [",".join(_cell(point[name]) for name in names) for point in points]
    return "\n".join(lines) + "\n"


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"  # noqa: PLR0124
    return str(value)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["measure", "report", "own"])
    parser.add_argument("--out", type=Path, default=OUTPUT)
    options = parser.parse_args()
    {"measure": measure_all, "report": report, "own": own}[options.action](options.out)


if __name__ == "__main__":
    main()
