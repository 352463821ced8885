"""From images to a search by a supernet, and to a check of its ranking: the commands, and what they are made of."""

import csv
import json
import multiprocessing
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from mvig_nas import recipes, scores, values
from mvig_nas.architecture import Architecture, preset
from mvig_nas.budget import Budget
from mvig_nas.cli import main
from mvig_nas.errors import MvigNasError, StorageError
from mvig_nas.image_data import EvaluationImages, hold_out, read_split
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.network import build
from mvig_nas.ranking import StandAlone, StandAlonePlan, proxies, rank, stand_alone, stratified, write_ranking
from mvig_nas.scores import SupernetScore, training_split
from mvig_nas.search import Study, search
from mvig_nas.search_space import SearchSpace
from mvig_nas.shipped import space_path
from mvig_nas.supernet import load_supernet
from mvig_nas.training import Plan, Recipe, read_checkpoint, train_supernet
from mvig_nas.training.accuracy import recalibrate, top1
from tests.images import write_images
from tests.tiny_training import PLAN, RECIPE, SPACE

HELD_OUT = replace(RECIPE, hold_out=0.25, epochs=6)


def mvig_nas(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of the command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["mvig-nas", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=24, val=8)


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "tiny.toml"
    values = SPACE.to_dict()
    lines = [f"{key} = {json.dumps(values[key])}" for key in ("schema", "name", "resolution", "head_width")]
    for stage in values["stage"]:
        lines += ["[[stage]]", *(f"{key} = {json.dumps(choices)}" for key, choices in stage.items())]
    path.write_text("\n".join(lines))
    assert SearchSpace.from_toml(path).choices == SPACE.choices
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "supernet"
    rest, _ = hold_out(read_split(data, "train"), HELD_OUT.hold_out)
    train_supernet(SPACE, rest, HELD_OUT, folder, plan=PLAN)
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The supernet without what others have scored."""
    (tmp_path / "supernet.safetensors").write_bytes((trained / "supernet.safetensors").read_bytes())
    return tmp_path


# ---- the score


def test_score_is_top1_of_the_extracted_recalibrated_network_on_held_out_images(data: Path, copied: Path) -> None:
    score = SupernetScore(copied, data, calibration_images=36)
    for architecture in (SPACE.largest, SPACE.smallest):
        network = score.trained.supernet.extract(architecture).eval()
        batches = [batch for batch, _ in EvaluationImages(hold_out(read_split(data, "train"), 0.25)[1],
                                                          HELD_OUT.preprocessing, 32)]  # fmt: skip
        recalibrate(network, score._calibration, 32)
        held = hold_out(read_split(data, "train"), 0.25)[1]
        with torch.no_grad():
            right = torch.cat([network(batch) for batch in batches]).argmax(1) == torch.tensor(held.targets)
        assert score(architecture) == pytest.approx(right.float().mean().item())


def test_scores_differ_between_architectures_and_beat_chance(data: Path, trained: Path) -> None:
    score = SupernetScore(trained, data)
    assert score(SPACE.largest) > 0.6  # three classes
    assert score(SPACE.largest) == SupernetScore(trained, data)(SPACE.largest)


def test_each_architecture_is_evaluated_once_and_kept_on_disk(
    data: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = SupernetScore(copied, data)(SPACE.largest)
    cache = copied / "supernet.scores.jsonl"
    assert len(cache.read_text().split()) > 0
    with cache.open("a") as file:
        file.write('\n{"key": "x", "finger')  # a kill while the line was written
    again = SupernetScore(copied, data)
    monkeypatch.setattr(again.trained.supernet, "extract", None)
    assert again(SPACE.largest) == value
    with pytest.raises(TypeError):
        again(SPACE.smallest)
    other = SupernetScore(copied, data, calibration_images=6)
    assert other._cache == {}, "another calibration is another value"


def test_cache_survives_a_line_that_was_cut_short(data: Path, copied: Path) -> None:
    first = SupernetScore(copied, data)
    first(SPACE.largest)
    with (copied / "supernet.scores.jsonl").open("a") as file:
        file.write('\n{"key": "x", "finger')
    first(SPACE.smallest)
    assert len(SupernetScore(copied, data)._cache) == 2


def test_validation_images_are_never_read(data: Path, trained: Path, tmp_path: Path) -> None:
    only_train = tmp_path / "data"
    only_train.mkdir()
    (only_train / "train").symlink_to(data / "train")
    assert SupernetScore(trained, only_train)(SPACE.smallest) == SupernetScore(trained, data)(SPACE.smallest)


def test_errors_of_the_score(data: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="must name its file, got none; write supernet:PATH"):
        scores.load("supernet:", data=data)
    with pytest.raises(MvigNasError, match="needs images to measure top-1 on; give their folder with --data"):
        scores.load(f"supernet:{trained}")
    with pytest.raises(MvigNasError, match="must be a file, but there is none"):
        scores.load(f"supernet:{tmp_path}/none.safetensors", data=data)
    with pytest.raises(MvigNasError, match=r"must be the one that scored before, 0123, but .* holds"):
        scores.load(f"supernet:{trained}@0123", data=data)
    with pytest.raises(MvigNasError, match=r"must hold all of space 'micro', but .* was trained for 'tiny', which"):
        scores.load(f"supernet:{trained}", data=data, space=SearchSpace.from_toml(space_path("micro")))
    score = SupernetScore(trained, data)
    with pytest.raises(MvigNasError, match=r"must be one of .* in space 'tiny'"):
        score(preset("mobilevig_ti"))
    others = write_images(tmp_path / "others", train=20)
    with pytest.raises(MvigNasError, match="must be those the supernet was trained on"):
        SupernetScore(trained, others)


def test_a_supernet_that_held_out_nothing_cannot_score(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, hold_out=0.0, epochs=2)
    train_supernet(SPACE, read_split(data, "train"), recipe, tmp_path, plan=PLAN)
    with pytest.raises(MvigNasError, match=r"its training held out none; train one with --hold-out 0.1"):
        training_split(load_supernet(tmp_path), data)


def test_search_by_supernet_resumes_only_with_the_same_weights(data: Path, copied: Path, tmp_path: Path) -> None:
    latency = ArchitectureLatency.load("iphone-13-mini")
    folder = tmp_path / "run"
    options: dict[str, Any] = {"sampler": "evolution", "folder": folder}
    score = scores.load(f"supernet:{copied}", data=data, space=SPACE)
    study = search(SPACE, score, latency, Budget(latency_ms=0.6), evaluations=4, **options)
    assert study.winner is not None
    assert 0 <= (study.winner.score or -1) <= 1
    assert study.settings.score == f"supernet:{copied}@{load_supernet(copied).digest}"
    again = scores.load(study.settings.score, data=data)
    assert again.name == score.name
    more = search(SPACE, again, latency, Budget(latency_ms=0.6), evaluations=6, resume=True, **options)
    assert [c.fingerprint for c in more.candidates][: len(study.candidates)] == [
        c.fingerprint for c in study.candidates
    ]


# ---- rankings


def test_stratified_architectures_cover_the_range_of_latencies() -> None:
    latency = ArchitectureLatency.load("iphone-13-mini")
    space = SearchSpace.from_toml(space_path("micro"))
    chosen = stratified(space, latency, 12, seed=3)
    assert chosen == stratified(space, latency, 12, seed=3) != stratified(space, latency, 12, seed=4)
    assert len(set(chosen)) == 12
    latencies = latency.predict_ms(chosen)
    steps = [later - earlier for earlier, later in pairwise(latencies)]
    assert min(steps) > 0
    assert max(steps) < 3 * min(steps)
    with pytest.raises(MvigNasError, match=r"a ranking of \d+ needs as many architectures, got \d+ in 'tiny'"):
        stratified(SPACE, latency, SPACE.size + 1, seed=0)


BOTH = (SPACE.smallest, SPACE.largest)


def train_both(data: Path, folder: Path, **options: Any) -> list[StandAlone]:
    recipe = replace(RECIPE, epochs=3)
    plan = StandAlonePlan(read_split(data, "train"), read_split(data, "val"), recipe, seeds=(0, 1))
    return stand_alone(BOTH, plan, folder, **options)


def test_stand_alone_trainings_are_kept_resumed_and_shared(data: Path, tmp_path: Path) -> None:
    whole = train_both(data, tmp_path / "whole")
    assert [(result.architecture, result.seed) for result in whole] == [(a, s) for a in BOTH for s in (0, 1)]
    assert len({result.accuracy for result in whole}) > 1
    weights = tmp_path / "whole" / f"{SPACE.smallest.fingerprint}-seed0" / "weights.safetensors"
    from safetensors.torch import load_file

    network = build(SPACE.smallest, 3, distillation=False)
    network.load_state_dict(load_file(weights))
    images = EvaluationImages(read_split(data, "val"), RECIPE.preprocessing, 32)
    assert top1(network, images, 32) == whole[0].accuracy

    class StopError(Exception):
        pass

    def stop(place: int, progress: Any) -> None:
        if place == 1 and progress.step == 4:
            raise StopError

    with pytest.raises(StopError):
        train_both(data, tmp_path / "stopped", on_progress=stop)
    seen: list[int] = []
    again = train_both(data, tmp_path / "stopped", on_progress=lambda place, _: seen.append(place))
    assert [result.accuracy for result in again] == [result.accuracy for result in whole]
    assert 0 not in seen, "what was done is not done again"
    assert train_both(data, tmp_path / "stopped", on_progress=lambda *_: pytest.fail("all is done")) == again

    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=train_both, args=(data, tmp_path / "shared")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    shared = train_both(data, tmp_path / "shared", on_progress=lambda *_: pytest.fail("all is done"))
    assert [result.accuracy for result in shared] == [result.accuracy for result in whole]


def test_rank_keeps_estimates_and_leaves_out_what_has_none(tmp_path: Path) -> None:
    latency = ArchitectureLatency.load("iphone-13-mini")
    space = SearchSpace.from_toml(space_path("micro"))
    architectures = stratified(space, latency, 6, seed=0)
    results = [StandAlone(a, s, 0.1 * place + 0.02 * s, 1.0) for place, a in enumerate(architectures) for s in (0, 1)]
    calls: list[str] = []

    def counted(architecture: Architecture) -> float:
        calls.append(architecture.fingerprint)
        return float(len(calls))

    def refuses(architecture: Architecture) -> float:
        raise MvigNasError(architecture.fingerprint)

    estimators = {"supernet": counted, "refuses": refuses, "log_macs": proxies()["log_macs"]}
    rows = rank(results, estimators, latency, tmp_path)
    assert [row.accuracy for row in rows] == pytest.approx([0.1 * place + 0.01 for place in range(6)])
    assert set(rows[0].estimates) == {"supernet", "log_macs"}
    assert rank(results, estimators, latency, tmp_path) == rows
    assert len(calls) == 6
    found = write_ranking(rows, architectures, tmp_path, "supernet")
    assert found["supernet"].kendall_tau.value == pytest.approx(1)
    with (tmp_path / "ranking.csv").open() as file:
        table = list(csv.DictReader(file))
    ordered = sorted((row.accuracy for row in rows), reverse=True)
    assert [float(row["accuracy"]) for row in table] == pytest.approx(ordered)
    assert {Architecture.from_json(row["architecture"]) for row in table} == set(architectures)
    for name in ("estimate_against_accuracy.png", "kendall_tau.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    with pytest.raises(StorageError, match="must be writable"):  # no fault of the estimator
        rank(results, estimators, latency, tmp_path / "missing")
    (tmp_path / "estimates.json").write_text("{")
    with pytest.raises(MvigNasError, match=r"must be readable JSON, .* remove it, and the estimates are made again"):
        rank(results, estimators, latency, tmp_path)


# ---- the commands


def train_command(data: Path, space_file: Path, out: Path, *more: str) -> list[str]:
    return [
        "supernet", "train", "--data", str(data), "--space", str(space_file), "--out", str(out), "--recipe", "small",
        "--epochs", "2", "--batch-size", "12", "--workers", "0", *more,
    ]  # fmt: skip


def test_train_search_and_rank_by_command(
    data: Path, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "supernet"
    assert mvig_nas(*train_command(data, space_file, out, "--learning-rate", "0.005"), monkeypatch=monkeypatch) == 0
    assert "Next: mvig-nas search" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "learning_curves.png",
        "log.csv",
        "run.json",
        "state.pt",
        "supernet.safetensors",
        "tensorboard",
        "training.lock",
    }
    training = load_supernet(out).training
    assert training["recipe"]["learning_rate"] == 0.005
    assert training["recipe"]["hold_out"] == recipes.load("small").hold_out

    search_options = ["--space", str(space_file), "--latency-budget", "0.6ms", "--evaluations", "4", "--out", "run"]
    supernet_options = ["--score", f"supernet:{out}", "--data", str(data), "--sampler", "evolution"]
    assert mvig_nas("search", *search_options, *supernet_options, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert re.search(r"top-1 on \d+ held-out training images", printed)
    assert "training-free" not in printed
    assert Study.load(tmp_path / "run").evaluated == 4
    assert mvig_nas("search", "--resume", "--out", "run", "--evaluations", "5", monkeypatch=monkeypatch) == 0
    assert Study.load(tmp_path / "run").evaluated == 5
    capsys.readouterr()

    ranking = ["supernet", "rank", str(out), "--data", str(data), "-n", "4", "--epochs", "1", "--workers", "0"]
    assert mvig_nas(*ranking, "--no-proxies", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "4 architectures of tiny" in printed
    assert len(list((out / "ranking" / "alone").glob("*/result.json"))) == 4
    assert mvig_nas(*ranking, "--seeds", "2", "--no-proxies", monkeypatch=monkeypatch) == 0
    assert "Two trainings of each network rank them with a tau of" in capsys.readouterr().out
    assert mvig_nas(*ranking, "--json", monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["agreement"]) >= {"supernet", "log_macs", "zico"}
    assert found["seed_ceiling"] is None


def test_a_training_is_resumed_by_its_folder_alone(
    data: Path, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["--sampling", "uniform", "--latency-range", "0.1ms", "0.6ms", "--seed", "3", "--checkpoint-minutes", "0"]
    assert mvig_nas(*train_command(data, space_file, whole, *options), monkeypatch=monkeypatch) == 0
    calls = iter(range(100))
    from mvig_nas.training import SupernetStep

    original = SupernetStep.__call__

    def interrupted(self: SupernetStep, *arguments: Any) -> Any:
        if next(calls) == 5:
            import signal

            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetStep, "__call__", interrupted)
        assert mvig_nas(*train_command(data, space_file, stopped, *options), monkeypatch=monkeypatch) == 130
    printed = capsys.readouterr().err
    assert "training was stopped at step 6" in printed
    assert f"mvig-nas supernet train --resume --out {stopped}" in printed
    assert not (stopped / "supernet.safetensors").exists()
    resume = ["supernet", "train", "--resume", "--out", str(stopped)]
    assert mvig_nas(*resume, monkeypatch=monkeypatch) == 0
    assert load_supernet(stopped).digest == load_supernet(whole).digest


def test_command_line_errors_are_one_line_and_overwrite_nothing(
    data: Path, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        capsys.readouterr()
        assert mvig_nas(*arguments, monkeypatch=monkeypatch) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    out = tmp_path / "out"
    corrupt = write_images(tmp_path / "corrupt")
    for image in (corrupt / "train").rglob("*"):
        if image.is_file():
            image.write_bytes(image.read_bytes()[:60])
    assert "image must be readable" in error(*train_command(corrupt, space_file, out))
    empty = write_images(tmp_path / "empty")
    (empty / "train" / "zzz").mkdir()
    assert "must have at least one image" in error(*train_command(empty, space_file, tmp_path / "a"))
    without = write_images(tmp_path / "without")
    (without / "val").rename(without / "elsewhere")
    assert "must hold a folder 'val'" in error(*train_command(without, space_file, tmp_path / "a"))
    assert "no recipe is called 'big'" in error(*train_command(data, space_file, tmp_path / "a", "--recipe", "big"))
    unknown = tmp_path / "recipe.toml"
    unknown.write_text("epoch = 3")
    assert "there is no entry `epoch`; did you mean 'epochs'" in error(
        *train_command(data, space_file, tmp_path / "a", "--recipe", str(unknown))
    )
    assert not (tmp_path / "a").exists()

    done = tmp_path / "done"
    assert mvig_nas(*train_command(data, space_file, done), monkeypatch=monkeypatch) == 0
    before = {path: path.read_bytes() for path in done.glob("*.*")}
    assert "holds a run of `mvig-nas supernet train` already; go on with it by --resume" in error(
        *train_command(data, space_file, done)
    )
    assert "`--learning-rate` was 0.003 and is now 0.1" in error(
        *train_command(data, space_file, done, "--resume", "--lr", "0.1")
    )
    assert "`space.name` was 'tiny' and is now 'toy'" in error(*train_command(data, Path("toy"), done, "--resume"))
    assert {path: path.read_bytes() for path in done.glob("*.*")} == before
    assert "must hold all of space 'micro'" in error(
        "search", "--space", "micro", "--latency-budget", "1ms", "--score", f"supernet:{done}", "--data", str(data)
    )


def test_weights_that_diverged_are_refused(data: Path) -> None:
    network = build(SPACE.smallest, 3, distillation=False)
    nn.init.constant_(network.head.bias, float("nan"))  # type: ignore[arg-type]
    images = EvaluationImages(read_split(data, "val"), RECIPE.preprocessing, 32)
    with pytest.raises(MvigNasError, match="logits must be finite, got NaN or infinity; the weights have diverged"):
        top1(network, images, 32)


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_whole(name: str) -> None:
    plan = recipes.load_plan(name)
    assert Plan.from_dict(plan.to_dict()) == plan
    if name in ("imagenet", "small", "teacher-head", "teacher-whole"):
        assert recipes.load(name) == plan.recipe
    else:
        with pytest.raises(MvigNasError, match=r"must have no table `distillation`; it is a plan"):
            recipes.load(name)


def test_checkpoints_of_a_run_name_what_it_trains(trained: Path) -> None:
    identity = read_checkpoint(trained)["identity"]
    assert identity["space"]["name"] == "tiny"
    assert values.read(Recipe, identity["recipe"], "a recipe") == HELD_OUT
