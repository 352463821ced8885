"""Scores that misbehave, for tests of the Ray evaluator; workers import this module, so it is light."""

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.scores import Score
from tests.sampler_contract import TOY, WidthScore


class Faulty(WidthScore):
    """Does what `faults` says for an architecture, and writes down in `folder` what it began, and in which process."""

    def __init__(self, folder: Path, faults: dict[str, str] | None = None, seconds: float = 0.0) -> None:
        super().__init__()
        self.folder = folder
        self.faults = faults or {}
        self.seconds = seconds

    def __call__(self, architecture: Architecture) -> float:
        name = architecture.fingerprint
        with (self.folder / "began").open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        time.sleep(self.seconds)
        fault = self.faults.get(name)
        if fault == "raise":
            raise ZeroDivisionError("by\nnought")
        if fault == "refuse":
            raise MvigNasError("no score for this one.")
        if fault == "exit":
            sys.exit(3)
        if fault == "nan":
            return float("nan")
        if fault == "hang":
            time.sleep(600)
        if fault == "die" or (fault == "die once" and not (self.folder / name).exists()):
            (self.folder / name).touch()
            os._exit(1)
        return super().__call__(architecture)

    @property
    def began(self) -> list[tuple[str, int]]:
        path = self.folder / "began"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]


class Unloadable(WidthScore):
    def __setstate__(self, state: dict[str, Any]) -> None:
        raise FileNotFoundError("no images here")


class Deadly(WidthScore):
    def __setstate__(self, state: dict[str, Any]) -> None:
        os._exit(1)


class Paced:
    """Another score, taking its time; `began` holds the processes that computed it, the last one last."""

    def __init__(self, score: Score, began: Path) -> None:
        self.name = score.name
        self.score = score
        self.began = began

    def __call__(self, architecture: Architecture) -> float:
        with self.began.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.15)
        return self.score(architecture)


def never() -> bool:
    return False


def architectures(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return list(dict.fromkeys(TOY.sample(rng) for _ in range(10 * count)))[:count]
