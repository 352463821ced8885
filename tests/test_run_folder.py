"""What a run was asked for is kept in its folder, and read again to resume it."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mvig_nas import run_folder
from mvig_nas.errors import MvigNasError


@dataclass(frozen=True)
class Request:
    name: str
    steps: int = 10


def test_a_run_is_reopened_as_it_was_asked_for(tmp_path: Path) -> None:
    run_folder.begin(tmp_path / "run", "retrain", Request("a", 3))
    assert run_folder.reopen(tmp_path / "run", "retrain", Request) == Request("a", 3)


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    run_folder.begin(tmp_path, "retrain", Request("a"))
    with pytest.raises(MvigNasError, match="holds a run of `mvig-nas retrain` already; go on with it by --resume"):
        run_folder.begin(tmp_path, "retrain", Request("b"))
    assert run_folder.reopen(tmp_path, "retrain", Request) == Request("a")


def test_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    run_folder.begin(tmp_path, "retrain", Request("a"))
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


def test_several_processes_must_name_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MvigNasError, match="several processes must share one run folder"):
        run_folder.new_folder("a", 0)
