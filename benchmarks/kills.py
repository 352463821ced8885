"""`python -m benchmarks.kills OUT.json`: runs that are killed, or meet a full disk, against the same run never harmed.

Run: python -m benchmarks.kills results/kills/kills.json [--harms 100] [--seed 7] [--until HH:MM] [--jobs JOB ...]
     python -m benchmarks.kills results/kills/full_disks.json --small-disk FOLDER

Jobs: a search, a supernet's training, a retraining, a bulk export, the finalists of a search, a whole `run`, each of a
few seconds, on 60 images of 40 pixels. A run is harmed twice and resumed; the third time it is left to its end, and
what it left is compared with the unharmed run's: weights, scores and top-1 to the bit, and no unfinished files.

A harm is kill -9 at a moment drawn evenly from the time that the job took unharmed; or, with --small-disk, a disk that
is full once a number of bytes is written, drawn evenly from what the job writes, at which it must end in one line. The
folder is to be a file system of its own, of 64 MB, such as `mount -t tmpfs -o size=64m tmpfs FOLDER` makes.

Processes are forked from one that has imported everything, so that moments of the work are met and not those of
imports. The plan of a `run` rests on a measured speed, so it is given. Ends with an error if anything differs.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvig_nas import pipeline, run_folder, values
from mvig_nas.budget import Budget
from mvig_nas.coreml.bulk_export import export_all
from mvig_nas.coreml.package import content_sha256
from mvig_nas.errors import MvigNasError
from mvig_nas.finalists import FinalistsRequest, hold
from mvig_nas.pipeline.planning import RunRequest
from mvig_nas.recipes import Execution, Plan, Recipe, SupernetPlan
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.search_run import SearchRequest, WorkerOptions, run_search
from mvig_nas.search.search_settings import SearchSettings
from mvig_nas.search.study import Study
from mvig_nas.search_space import SearchSpace
from mvig_nas.training import RetrainRequest, SupernetRequest, retrain, run_supernet_training

SEED = 7
HARMS_A_RUN = 2
REFUSED = 3  # exit code of a job that ended in one line
BALLAST = "ballast"
RECIPE = Recipe(epochs=6, batch_size=12, learning_rate=5e-3, warmup_epochs=1)
EXECUTION = Execution(checkpoint_minutes=0.01)
SHARES = {"search": 25, "supernet": 20, "retrain": 20, "export": 15, "finalists": 12, "run": 8}  # of 100 kills
# a candidate's number says when its score was ready; its place in its turn, by which samplers see it, is compared
BY_CHANCE = ("number", "seconds", "evaluated_s", "evaluated_at")

Found = dict[str, str]


class Jobs:
    """What is run, each in a folder, and what of it must be the same."""

    def __init__(self, home: Path) -> None:
        self.data = home / "data"
        _write_images(self.data)
        self.space = SearchSpace.load("toy")
        rng = random.Random(SEED)
        self.architectures = [self.space.sample(rng) for _ in range(2)]
        self.searched = home / "searched"
        self.plan: Path | None = None  # of the run that is never killed
        (home / "plan.toml").write_text("epochs = 4\nbatch_size = 12\nlearning_rate = 5e-3\nwarmup_epochs = 1\n")
        self.short = str(home / "plan.toml")

    def search(self, folder: Path) -> None:
        """12 scores in the space `toy`."""
        asked = SearchRequest(
            space="toy",
            score="naswot",
            budget=Budget(latency_ms=10.0),
            settings=SearchSettings(12, seed=SEED),
            ray=WorkerOptions(workers=1),  # others begin with seconds of imports
        )
        run_search(asked, folder, resume=(folder / run_folder.FILE).exists())

    def supernet(self, folder: Path) -> None:
        """A supernet of the space `toy`, six epochs."""
        execution = values.changed(EXECUTION, {"resume": (folder / run_folder.FILE).exists()})
        asked = SupernetRequest(self.space, self.data, RECIPE, SupernetPlan(random_networks=1), execution=execution)
        run_supernet_training(asked, folder)

    def retrain(self, folder: Path) -> None:
        """The smallest network of the space `toy`, six epochs, a validation after each."""
        execution = values.changed(EXECUTION, {"resume": (folder / run_folder.FILE).exists()})
        retrain(RetrainRequest(self.space.smallest, self.data, Plan(RECIPE), execution=execution), folder)

    def export(self, folder: Path) -> None:
        """Two packages, verified."""
        for message in export_all(self.architectures, folder).failed.values():
            raise MvigNasError(message)

    def finalists(self, folder: Path) -> None:
        """Three trainings of up to four epochs, one after the other."""
        if not (folder / "study.journal").exists():
            shutil.copytree(self.searched, folder, dirs_exist_ok=True)
        own = folder / "finalists"
        asked = FinalistsRequest(folder, self.data, count=3, plan=self.short, hold_out=0.25, seed=SEED)
        hold(asked, Resources(trainings=1), resume=(own / run_folder.FILE).exists())

    def run(self, folder: Path) -> None:
        """Search, finalists, two epochs and a package."""
        asked = RunRequest(self.data, 0.42, hours=1.0, finalists=3, max_epochs=2, seed=SEED)
        if self.plan is not None and not folder.exists():
            folder.mkdir()
            for name in (run_folder.FILE, "plan.json"):
                shutil.copy(self.plan / name, folder / name)
        pipeline.run(asked, folder, resume=(folder / run_folder.FILE).exists())


def left(job: str, folder: Path) -> Found:
    """What a finished run left, without times and paths, by name."""
    found: Found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".tmp" and not name.startswith("images"):
            found[name] = "unfinished"
        elif path.suffix == ".safetensors" and path.is_file():
            found[name] = sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".mlpackage":
            found[name] = content_sha256(path)
        elif path.name in {"winner.json", "finalists.json", "result.json", "front.csv"}:
            found[name] = (
                json.dumps(_plain(json.loads(path.read_text()))) if path.suffix == ".json" else path.read_text()
            )
        elif path.name == "reports.jsonl":
            found[name] = path.read_text()
        elif path.name == "study.journal":
            candidates = sorted(Study.load(path.parent).candidates, key=lambda candidate: candidate.order)
            found[name] = json.dumps([_plain(candidate.to_dict()) for candidate in candidates])
    if job == "run":
        summary = json.loads((folder / "summary.json").read_text())
        found["summary.json"] = json.dumps({name: entry for name, entry in summary.items() if name != "package"})
    return found


def _plain(value: Any) -> Any:
    """Without times, and what follows from them."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items() if name not in BY_CHANCE}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _write_images(data: Path) -> None:
    rng = np.random.default_rng(SEED)
    for part, count in (("train", 16), ("val", 4)):
        for label in range(3):
            home = data / part / f"class_{label}"
            home.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                pixels[:, :, label] += 120
                Image.fromarray(pixels).save(home / f"{number}.png")


def attempt(work: Callable[[Path], None], folder: Path, seconds: float | None) -> bool:
    """Do the work in a forked process, killed after so many seconds; whether it came to its end.

    Raises:
        RuntimeError: it failed by itself, in more than one line.
    """
    told = Path(tempfile.gettempdir()) / f"kills-{os.getpid()}.txt"
    child = os.fork()
    if not child:
        os.setsid()
        for stream, path in ((1, os.devnull), (2, told)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os._exit(_code_of(work, folder))
    until = math.inf if seconds is None else time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code not in {0, REFUSED}:
                raise RuntimeError(f"{folder} ended with {code}: {told.read_text()[-2000:]}")
            return code == 0
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _code_of(work: Callable[[Path], None], folder: Path) -> int:
    try:
        work(folder)
    except MvigNasError as error:
        print(error, file=sys.stderr, flush=True)
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def filled(disk: Path, room: int) -> Iterator[None]:
    """Inside, so many bytes are free on a disk."""
    ballast = disk / BALLAST
    free = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - room, 1))
    try:
        yield
    finally:
        ballast.unlink()


class Trial:
    """One job: how it ends unharmed, and counts of harms and of runs that differ from that."""

    def __init__(self, job: str, jobs: Jobs, home: Path, seed: int, is_small: bool) -> None:
        self.job, self.home, self.is_small = job, home, is_small
        self.work: Callable[[Path], None] = getattr(jobs, job)
        self.rng = random.Random(f"{seed}/{job}")
        whole = home / f"{job}-whole"
        began, before = time.monotonic(), shutil.disk_usage(home).used
        attempt(self.work, whole, None)
        self.seconds, self.size = time.monotonic() - began, shutil.disk_usage(home).used - before
        self.expected = left(job, whole)
        if job == "run":
            jobs.plan = whole
        self.row: dict[str, Any] = {"harms": 0, "runs": 0, "differ": 0, "compared": len(self.expected)}
        self.row |= {"bytes": self.size} if is_small else {"unharmed_s": round(self.seconds, 1)}
        self.row["told"] = []

    def harm(self) -> None:
        """Harm one run, and compare what it leaves."""
        folder, ended = self.home / f"{self.job}-{self.row['runs']}", False
        try:
            for _ in range(HARMS_A_RUN):
                if self.is_small:
                    with filled(self.home, self.rng.randrange(self.size)):
                        ended = attempt(self.work, folder, None)
                else:
                    ended = attempt(self.work, folder, self.rng.uniform(0, self.seconds))
                self.row["harms"] += not ended
                if ended:
                    break
            if not ended and not attempt(self.work, folder, None):
                raise RuntimeError("it could not be resumed")
            found = left(self.job, folder)
        except (RuntimeError, OSError, ValueError) as error:
            found = {"error": str(error)}
        self.row["runs"] += 1
        names = {name for name in {**found, **self.expected} if found.get(name) != self.expected.get(name)}
        if names:
            self.row["differ"] += 1
            self.row["told"].append(str(names)[:300])
            print(self.job, names, found.get("error", ""), flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        harms, runs, differ = self.row["harms"], self.row["runs"], self.row["differ"]
        print(f"{time.strftime('%H:%M')} {self.job}: {harms} harms in {runs} runs, {differ} differ", flush=True)


def main() -> None:
    """Run the jobs in turns, and write the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--harms", type=int, default=100)
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments")
    parser.add_argument("--until", default="99:99", help="stop at this time of the day")
    parser.add_argument("--small-disk", type=Path, help="the disk that is made full, in place of kills")
    parser.add_argument("--jobs", nargs="*", choices=list(SHARES), default=list(SHARES))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    goals = {job: max(1, round(asked.harms * SHARES[job] / 100)) for job in asked.jobs}
    trials: dict[str, Trial] = {}
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(dir=asked.small_disk) as folder:
        jobs, home = Jobs(Path(scratch)), Path(folder)
        if "finalists" in asked.jobs:
            attempt(jobs.search, jobs.searched, None)
        while time.strftime("%H:%M") < asked.until:
            # the job that is furthest from its goal, so that a call that is stopped has harmed all of them
            job = min(goals, key=lambda each: trials[each].row["harms"] / goals[each] if each in trials else 0.0)
            if job in trials and trials[job].row["harms"] >= goals[job]:
                break
            if job in trials:
                trials[job].harm()
            else:
                trials[job] = Trial(job, jobs, home, asked.seed, asked.small_disk is not None)
            rows = {job: trial.row for job, trial in trials.items()}
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps({"seed": asked.seed, "jobs": rows}, indent=1) + "\n")
    if any(trial.row["differ"] for trial in trials.values()):
        sys.exit("a harmed run differs from the one that was not")


if __name__ == "__main__":
    main()
