"""No file, however wrong, makes a traceback, a hang, or a file outside its folder."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hostile.judging import Work, refusal
from tests.hostile.readers import READERS, Reader, malicious

SEEDS = int(os.environ.get("HOSTILE_SEEDS", "30"))

Copies = Callable[[Reader], Reader]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """The same reader, whose good files are made once and then copied."""
    made: dict[str, Path] = {}

    def copying(reader: Reader) -> Reader:
        if reader.name not in made:
            made[reader.name] = tmp_path_factory.mktemp("made")
            reader.make(made[reader.name])
        return replace(
            reader, make=lambda folder: shutil.copytree(made[reader.name], folder, symlinks=True, dirs_exist_ok=True)
        )

    return copying


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_wrong_file_is_taken_or_refused_in_one_line(reader: Reader, copies: Copies, tmp_path: Path) -> None:
    work = Work(copies(reader), tmp_path)
    failures = {seed: work.failure(seed) for seed in range(SEEDS)}
    failed = [f"seed {seed}: {failure}" for seed, failure in failures.items() if failure is not None]
    assert not failed, f"{len(failed)} of {SEEDS}:\n" + "\n".join(failed[:20])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=str)
@pytest.mark.parametrize("kind", ["pickle", "npz", "pt"])
def test_no_pickle_runs(reader: Reader, kind: str, copies: Copies, tmp_path: Path) -> None:
    good = tmp_path / "good"
    copies(reader).make(good)
    (good / reader.file).write_bytes(malicious(tmp_path / "owned", kind))
    refusal(reader, good)
    assert not (tmp_path / "owned").exists()


# a budget is no file of its own, and kept scores that cannot be read are computed anew
NO_REFUSAL = ("budget", "kept scores")


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.name not in NO_REFUSAL], ids=str)
def test_what_is_no_regular_file_is_refused(reader: Reader, copies: Copies, tmp_path: Path) -> None:
    good = tmp_path / "good"
    copies(reader).make(good)
    path = good / reader.file
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refusal(reader, good) is not None
    path.unlink()
    os.mkfifo(path)
    assert refusal(reader, good) is not None
