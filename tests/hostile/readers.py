"""Every reader of files: how a good file is made, which of its files is made wrong, and how it is read."""

import json
import pickle
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mvig_nas import (
    budget,
    coreml,
    device_log,
    experiments,
    finalists,
    image_data,
    kernels,
    latency,
    network,
    recipes,
    run_folder,
    scores,
    shipped,
    supernet,
    training,
)
from mvig_nas import search as searching
from mvig_nas.architecture import Architecture, preset, read_architectures
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data.transforms import read_image
from mvig_nas.latency.card import FitRequest, fit_log, read_card, rows_of
from mvig_nas.scores.calibrated_score import FILE as CALIBRATED
from mvig_nas.search.evaluators.short_training import read_reports
from mvig_nas.search_space import SearchSpace
from mvig_nas.training.model_folder import TrainedModel, read_model, write_model
from mvig_nas.values import plain
from tests.hostile.mutations import bytes_mutated, json_lines_mutated, json_mutated, toml_mutated
from tests.images import write_images
from tests.sampler_contract import HALF, TOY, SizeLatency, WidthScore, no_costs
from tests.tiny_training import RECIPE, SPACE

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """`make` writes good files into a folder, `file` is the one that is mutated, `read` reads the folder."""

    name: str
    make: Callable[[Path], Any]
    file: str
    mutate: Mutate
    read: Callable[[Path], Any]

    def __str__(self) -> str:
        return self.name


def _architecture(folder: Path) -> None:
    (folder / "architecture.json").write_text(preset("mobilevig_ti").to_json())


def _architectures(folder: Path) -> None:
    rng = random.Random(0)
    (folder / "archs.jsonl").write_text("".join(TOY.sample(rng).to_json() + "\n" for _ in range(4)))


def _space(folder: Path) -> None:
    (folder / "space.toml").write_bytes(Path(shipped.space_path("micro")).read_bytes())


def _recipe(folder: Path) -> None:
    (folder / "recipe.toml").write_bytes((Path(recipes.__file__).parent / "small.toml").read_bytes())


def _plan(folder: Path) -> None:
    (folder / "plan.toml").write_bytes((Path(recipes.__file__).parent / "mobilevig-300ep.toml").read_bytes())


def _predictor(folder: Path) -> None:
    for path in Path(shipped.predictor_folder("iphone-13-mini")).iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())


def _predict(folder: Path) -> None:
    found = latency.LatencyPredictor.load(folder)
    networks = [kernels.of(preset("mobilevig_ti"), "exported")]
    predictions = [found.predict_ms(networks), *found.interval_ms(networks)]
    assert np.isfinite(predictions).all()


def _fitted(folder: Path) -> None:
    (folder / "log.jsonl").write_bytes((Path(__file__).parents[2] / "results/host_cpu/mobilevig.jsonl").read_bytes())
    log = device_log.read(folder / "log.jsonl")
    rows = rows_of(log)
    fitted = latency.fit_device(rows.kernels[:12], rows.latencies_ms[:12], "me@phone")
    fitted.predictor.save(folder)


def _log(folder: Path) -> None:
    source = Path(__file__).parents[1] / "fixtures" / "device_log.jsonl"
    if not source.is_file():
        source = next(Path(__file__).parents[2].glob("results/host_cpu/mobilevig.jsonl"))
    (folder / "log.jsonl").write_text("".join(source.read_text().splitlines(keepends=True)[:6]))


def _study(folder: Path) -> None:
    searching.search(
        TOY, WidthScore(), SizeLatency(), HALF, evaluations=8, sampler="random", costs=no_costs, folder=folder / "run"
    )


def _read_study(folder: Path) -> None:
    study = searching.Study.load(folder / "run")
    json.dumps([candidate.to_dict() for candidate in study.candidates])
    _ = study.winner, study.front, study.best_so_far


def _supernet(folder: Path) -> None:
    made = supernet.Supernet(SPACE, 3)
    about = {"recipe": {"hold_out": 0.1}, "images": "0"}
    supernet.save_supernet(folder / "supernet.safetensors", made, ("a", "b", "c"), about)


def _read_supernet(folder: Path) -> None:
    supernet.load_supernet(folder).supernet.extract(SPACE.smallest)


def _model(folder: Path) -> None:
    made = network.build(SPACE.smallest, 3)
    write_model(folder, TrainedModel(made.eval(), ("a", "b", "c"), image_data.Preprocessing(), {"accuracy": {}}))


def _read_model(folder: Path) -> None:
    found = read_model(folder).network
    side = found.architecture.resolution
    with torch.no_grad():
        found(torch.zeros(1, 3, side, side))


def _checkpoint(folder: Path) -> None:
    data = write_images(folder / "images", train=8, val=2)
    images = image_data.read_split(data, "train")
    execution = training.Execution(stop_after=25)  # the log has a row for every 20 steps
    try:
        training.train_alone(SPACE.smallest, images, RECIPE, folder / "run", execution=execution)
    except training.StopTraining:
        return


def _resume(folder: Path) -> None:
    images = image_data.read_split(folder / "images", "train")
    try:
        training.train_alone(
            SPACE.smallest, images, RECIPE, folder / "run", execution=training.Execution(stop_after=1, resume=True)
        )
    except training.StopTraining:
        return


def _calibrated(folder: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=12).tolist() for name in ("log_macs", "log_params")}
    scores.save_calibrated(scores.fit_calibrated(columns, rng.uniform(0.6, 0.7, 12).tolist()), folder)


def _read_calibrated(folder: Path) -> None:
    scores.load(f"calibrated:{folder}")(preset("mobilevig_ti"))


def _request(folder: Path) -> None:
    run_folder.begin(folder / "run", "finalists", finalists.FinalistsRequest(folder, folder))


def _reports(folder: Path) -> None:
    lines = [json.dumps({"epoch": number, "top1": 0.1 * number}) for number in range(1, 5)]
    (folder / "reports.jsonl").write_text("\n".join(lines) + "\n")


def _package(folder: Path) -> None:
    coreml.export(coreml.untrained(SPACE.smallest, 3), folder / "net.mlpackage", weights="untrained")


def _read_package(folder: Path) -> None:
    coreml.operations(folder / "net.mlpackage")


def _image(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image.{kind}")

    return make


def _reference(folder: Path) -> None:
    torch.save({"stem.stem.3.weight": torch.zeros(42, 21, 3, 3)}, folder / "weights.pth")


def _read_reference(folder: Path) -> None:
    try:
        network.load_reference_checkpoint(folder / "weights.pth")
    except MvigNasError as error:
        if "this one lacks it" not in str(error):
            raise


def _manifest(folder: Path) -> None:
    content = {
        "schema": 1,
        "options": {},
        "packages": [
            {
                "package": "a.mlpackage",
                "fingerprint": "0",
                "sha256": "0",
                "coremltools_version": "9",
                "mvig_nas_version": "0",
                "verified": None,
            }
        ],
    }
    (folder / coreml.MANIFEST).write_text(json.dumps(content))


def _card(folder: Path) -> None:
    rows = (Path(__file__).parents[2] / "results/host_cpu/mobilevig.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(rows[:16]))
    fit_log(device_log.read(folder / "log.jsonl"), folder / "fitted", FitRequest(k_fold=2))


def _labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("ant\nhoney bee\ncat\n")


def _experiment(folder: Path) -> None:
    source = shipped.folder("search_spaces") / "experiments" / "fixed-vs-dynamic.toml"
    (folder / "experiment.toml").write_bytes(Path(str(source)).read_bytes())


def _csv(folder: Path) -> None:
    (folder / "log.csv").write_text("net,ms\nmobilevig_ti,1.0\nmobilevig_s,1.2\n")


def _read_csv(folder: Path) -> None:
    constants = {"device": "my-phone", "compute_units": "all"}
    device_log.read_csv(folder / "log.csv", {"architecture": "net", "latency_ms": "ms"}, "ms", constants)


def _split(folder: Path) -> None:
    record = {"schema": 1, "images": "/images", "classes": ["a", "b"], "train": 8, "val": 2, "unreadable": ["a/1.jpg"]}
    (folder / "split.json").write_text(json.dumps(record))


def _read_split(folder: Path) -> None:
    made = image_data.split_images(Path("/images"), folder)
    assert made.train + made.val > 0
    assert all("/" in name for name in made.unreadable)


def _scores(folder: Path) -> None:
    data = write_images(folder / "images", train=8, val=2)
    rest, _ = image_data.hold_out(image_data.read_split(data, "train"), 0.2)
    about = {"recipe": plain(replace(RECIPE, hold_out=0.2)), "images": rest.digest}
    supernet.save_supernet(folder / "supernet.safetensors", supernet.Supernet(SPACE, 3), rest.classes, about)
    _read_scores(folder)


def _read_scores(folder: Path) -> None:
    score = scores.SupernetScore(folder / "supernet.safetensors", folder / "images", calibration_images=0)
    assert 0 <= score(SPACE.smallest) <= 1


def _budget(folder: Path) -> None:
    (folder / "budget.txt").write_text("1.0ms")


def _read_budget(folder: Path) -> None:
    text = (folder / "budget.txt").read_bytes().decode("utf-8", "replace")
    for parse in (budget.parse_duration_ms, budget.parse_count, budget.parse_bytes):
        with suppress(MvigNasError):
            parse(text)


READERS = (
    Reader("architecture", _architecture, "architecture.json", json_mutated,
           lambda folder: Architecture.load(str(folder / "architecture.json"))),
    Reader("architectures", _architectures, "archs.jsonl", json_lines_mutated,
           lambda folder: read_architectures(folder / "archs.jsonl")),
    Reader("space", _space, "space.toml", toml_mutated,
           lambda folder: SearchSpace.load(str(folder / "space.toml")).sample(random.Random(0))),
    Reader("recipe", _recipe, "recipe.toml", toml_mutated, lambda folder: recipes.load(str(folder / "recipe.toml"))),
    Reader("plan", _plan, "plan.toml", toml_mutated, lambda folder: recipes.load_plan(str(folder / "plan.toml"))),
    Reader("predictor.json", _predictor, "predictor.json", json_mutated, _predict),
    Reader("predictor.npz", _predictor, "predictor.npz", bytes_mutated, _predict),
    Reader("own device", _fitted, "predictor.json", json_mutated, _predict),
    Reader("own device's arrays", _fitted, "predictor.npz", bytes_mutated, _predict),
    Reader("device log", _log, "log.jsonl", json_lines_mutated, lambda folder: device_log.read(folder / "log.jsonl")),
    Reader("study", _study, "run/study.journal", json_lines_mutated, _read_study),
    Reader("supernet", _supernet, "supernet.safetensors", bytes_mutated, _read_supernet),
    Reader("model config", _model, "config.json", json_mutated, _read_model),
    Reader("model weights", _model, "model.safetensors", bytes_mutated, _read_model),
    Reader("checkpoint", _checkpoint, "run/state.pt", bytes_mutated, _resume),
    Reader("training log", _checkpoint, "run/log.csv", bytes_mutated, _resume),
    Reader("calibrated score", _calibrated, CALIBRATED, json_mutated, _read_calibrated),
    Reader("run.json", _request, "run/run.json", json_mutated,
           lambda folder: run_folder.reopen(folder / "run", "finalists", finalists.FinalistsRequest)),
    Reader("reports", _reports, "reports.jsonl", json_lines_mutated, read_reports),
    Reader("package program", _package, "net.mlpackage/Data/com.apple.CoreML/model.mlmodel", bytes_mutated,
           _read_package),
    Reader("package manifest", _package, "net.mlpackage/Manifest.json", json_mutated, _read_package),
    Reader("export manifest", _manifest, coreml.MANIFEST, json_mutated, coreml.read_manifest),
    Reader("JPEG", _image("jpg"), "image.jpg", bytes_mutated,
           lambda folder: read_image(str(folder / "image.jpg"))),
    Reader("PNG", _image("png"), "image.png", bytes_mutated,
           lambda folder: read_image(str(folder / "image.png"))),
    Reader("reference weights", _reference, "weights.pth", bytes_mutated,
           _read_reference),
    Reader("card", _card, "fitted/card.json", json_mutated, lambda folder: read_card(folder / "fitted")),
    Reader("class labels", _labels, "labels.txt", bytes_mutated,
           lambda folder: coreml.read_labels(folder / "labels.txt")),
    Reader("experiment", _experiment, "experiment.toml", toml_mutated,
           lambda folder: experiments.Experiment.load(str(folder / "experiment.toml"))),
    Reader("CSV", _csv, "log.csv", bytes_mutated, _read_csv),
    Reader("record of a split", _split, "split.json", json_mutated, _read_split),
    Reader("kept scores", _scores, "supernet.scores.jsonl", json_lines_mutated, _read_scores),
    Reader("scoring supernet", _scores, "supernet.safetensors", bytes_mutated, _read_scores),
    Reader("budget", _budget, "budget.txt", bytes_mutated, _read_budget),
)  # fmt: skip


class Malicious:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "owned"))


def malicious(path: Path, kind: str) -> bytes:
    """A pickle that would write `path`, as a file of a kind holds it."""
    if kind == "pickle":
        return pickle.dumps(Malicious(path))
    file = path.with_suffix(f".{kind}")
    if kind == "npz":
        np.savez(file, calibration=np.array([Malicious(path)], dtype=object))
    else:
        torch.save({"schema": 1, "model": Malicious(path)}, file)
    return file.read_bytes()
