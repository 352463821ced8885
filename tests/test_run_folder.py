"""What a run was asked for is kept in its folder, and read again to resume it."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mvig_nas import run_folder
from mvig_nas.errors import MvigNasError
from mvig_nas.recipes import Preprocessing, Recipe


@dataclass(frozen=True)
class Request:
    name: str
    steps: int = 10


@dataclass(frozen=True)
class Asked:
    recipe: Recipe


def begin(folder: Path, command: str, request: Request) -> None:
    """A run that was killed before it had begun."""
    with run_folder.entered(folder, command, request, False, "state"):
        pass


def test_a_run_is_reopened_as_it_was_asked_for(tmp_path: Path) -> None:
    begin(tmp_path / "run", "retrain", Request("a", 3))
    assert run_folder.reopen(tmp_path / "run", "retrain", Request) == Request("a", 3)


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    begin(tmp_path, "retrain", Request("a"))
    with pytest.raises(MvigNasError, match="holds a run of `mvig-nas retrain` already; go on with it by --resume"):
        begin(tmp_path, "retrain", Request("b"))
    assert run_folder.reopen(tmp_path, "retrain", Request) == Request("a")


def test_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    begin(tmp_path, "retrain", Request("a"))
    with pytest.raises(MvigNasError, match="must hold a run of `mvig-nas search` to resume, got one of `retrain`"):
        run_folder.reopen(tmp_path, "search", Request)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a run to resume must hold run.json, but there is none"),
        ("{", "must be readable JSON"),
        ("[]", "must hold a table, got list"),
        ('{"command": "retrain", "schema": 99}', "the schema of .* must be 1, got 99"),
        (
            '{"command": "retrain", "schema": 1, "request": {"nam": "a"}}',
            "there is no entry `nam`; did you mean 'name'",
        ),
        ('{"command": "retrain", "schema": 1, "request": {}}', "`name` must be given, it is missing"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / run_folder.FILE).write_text(content)
    with pytest.raises(MvigNasError, match=message):
        run_folder.reopen(tmp_path, "retrain", Request)


def test_a_resumed_run_keeps_what_it_began_with() -> None:
    saved = Request("a", 3)
    run_folder.require_same(saved, replace(saved, steps=5), may_differ=("steps",))
    with pytest.raises(MvigNasError, match="but `steps` was 3 and is now 5"):
        run_folder.require_same(saved, replace(saved, steps=5))


def test_entries_that_came_or_went_are_named() -> None:
    run_folder.require_same({"a": [1, 2], "b": {"c": None}}, {"a": (1, 2), "b": {"c": None}})
    with pytest.raises(MvigNasError, match=r"`b\.c` was 1 and is now None"):
        run_folder.require_same({"b": {"c": 1}}, {"b": {}})
    with pytest.raises(MvigNasError, match="`d` was None and is now 2"):
        run_folder.require_same({}, {"d": 2})
    with pytest.raises(MvigNasError, match=r"`e` was 'x{56}\.\.\. and is"):
        run_folder.require_same({"e": "x" * 100}, {"e": "y"})


def test_an_option_is_named_as_users_give_it() -> None:
    saved = Asked(Recipe(epochs=8))
    for changes, message in (
        ({"epochs": 9}, "`--epochs` was 8 and is now 9; give the same, or start anew"),
        ({"min_learning_rate": 0.0}, "`--min-learning-rate` was 1e-05 and is now 0.0"),
        ({"preprocessing": Preprocessing(flip=0.25)}, "`--flip` was 0.5 and is now 0.25"),
    ):
        with pytest.raises(MvigNasError, match=message):
            run_folder.require_same(saved, Asked(replace(saved.recipe, **changes)))


def enter(folder: Path, *, begins: bool) -> None:
    """A run that is interrupted, after it has begun or before."""
    assert not run_folder.inspected(folder, "x", Request("a"), False, "state")
    with run_folder.entered(folder, "x", Request("a"), False, "state"):
        assert (folder / run_folder.FILE).is_file()
        if begins:
            (folder / "state").touch()
        raise KeyboardInterrupt


class TestEntered:
    def test_what_fails_before_it_began_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            enter(tmp_path / "a", begins=False)
        assert not (tmp_path / "a").exists()
        (tmp_path / "mine.txt").touch()
        with pytest.raises(KeyboardInterrupt):
            enter(tmp_path, begins=False)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_what_fails_after_it_began_stays_and_goes_on(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            enter(tmp_path, begins=True)
        assert run_folder.reopen(tmp_path, "x", Request) == Request("a")
        assert run_folder.inspected(tmp_path, "x", Request("a"), True, "state")
        with pytest.raises(MvigNasError, match="`name` was 'a' and is now 'b'"):
            run_folder.inspected(tmp_path, "x", Request("b"), True, "state")
        with pytest.raises(MvigNasError, match="holds a run of `mvig-nas x` already"):
            run_folder.inspected(tmp_path, "x", Request("a"), False, "state")

    def test_killed_before_it_began_it_begins(self, tmp_path: Path) -> None:
        begin(tmp_path, "x", Request("a"))
        assert not run_folder.inspected(tmp_path, "x", Request("a"), True, "state")

    def test_a_run_of_an_older_version(self, tmp_path: Path) -> None:
        (tmp_path / "state").touch()
        assert run_folder.inspected(tmp_path, "x", Request("a"), True, "state")
        with pytest.raises(MvigNasError, match="holds a run already; go on with it by --resume"):
            run_folder.inspected(tmp_path, "x", Request("a"), False, "state")
        assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_several_processes_must_name_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MvigNasError, match="several processes must share one run folder"):
        run_folder.new_folder("a", 0)


def test_a_resumed_run_removes_what_kills_left_unfinished(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with run_folder.entered(tmp_path, "search", Request("a"), False, "study.journal"):
        (tmp_path / "study.journal").touch()
    (tmp_path / "trained").mkdir()
    left = [tmp_path / f"winner.json.{ended.pid}.tmp", tmp_path / "trained" / f"state.pt.{os.getpid()}.tmp"]
    others = [tmp_path / f"front.csv.{os.getppid()}.tmp", tmp_path / "notes.tmp", tmp_path / "a.0.tmp"]
    for path in (*left, *others):
        path.touch()
    with run_folder.entered(tmp_path, "search", Request("a"), True, "study.journal"):
        pass
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)
