"""No file, however wrong, makes a traceback, a hang, or a file outside its folder."""

import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mvig_nas.errors import MvigNasError
from tests.hostile.readers import READERS, Reader, malicious

SEEDS = int(os.environ.get("HOSTILE_SEEDS", "30"))
LONGEST_S = 20  # a loaded machine takes its time, a hang takes for ever
MOST_BYTES = 2**30


class Hang(BaseException):
    """A reader took too long; no reader may catch it."""


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@contextmanager
def limited() -> Iterator[None]:
    """A hang becomes an error."""

    def stop(*_: object) -> None:
        raise Hang(f"took longer than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(reader: Reader, folder: Path) -> str | None:
    """What a reader says of the files in a folder; None if it takes them."""
    try:
        with limited():
            reader.read(folder)
    except MvigNasError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_wrong_file_is_taken_or_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    good, work = tmp_path / "good", tmp_path / "work"
    good.mkdir()
    reader.make(good)
    assert refusal(reader, shutil.copytree(good, work)) is None
    content = (good / reader.file).read_bytes()
    before = files(tmp_path)
    failed = []
    for seed in range(SEEDS):
        shutil.rmtree(work)
        shutil.copytree(good, work)
        (work / reader.file).write_bytes(reader.mutate(content, random.Random(f"{reader.name}/{seed}")))
        try:
            said = refusal(reader, work)
        except Exception as error:
            failed.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
            continue
        if said is not None and len(said) > 2000:
            failed.append(f"seed {seed}: a message of {len(said)} letters")
    outside = {path for path in files(tmp_path) - before if work not in path.parents}
    assert not outside
    assert not failed, f"{len(failed)} of {SEEDS}:\n" + "\n".join(failed[:20])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 4 * MOST_BYTES


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=str)
@pytest.mark.parametrize("kind", ["pickle", "npz", "pt"])
def test_no_pickle_runs(reader: Reader, kind: str, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    reader.make(good)
    (good / reader.file).write_bytes(malicious(tmp_path / "owned", kind))
    refusal(reader, good)
    assert not (tmp_path / "owned").exists()


# a budget is no file of its own, and kept scores that cannot be read are computed anew
NO_REFUSAL = ("budget", "kept scores")


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.name not in NO_REFUSAL], ids=str)
def test_what_is_no_regular_file_is_refused(reader: Reader, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    reader.make(good)
    path = good / reader.file
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refusal(reader, good) is not None
    path.unlink()
    os.mkfifo(path)
    assert refusal(reader, good) is not None
