"""The page of the Python interface names what there is, and its examples run."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.strategies import REPOSITORY

PAGE = (REPOSITORY / "docs" / "api.md").read_text()
NAMES = sorted(
    {
        name
        for row in re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE)
        for name in re.findall(r"`([a-z_]+(?:\.\w+)+)", row)
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_tables_is_there(name: str) -> None:
    parts = name.split(".")
    found = import_module("mvig_nas")
    for index, part in enumerate(parts):
        found = getattr(found, part, None) or import_module(".".join(["mvig_nas", *parts[: index + 1]]))
    assert found is not None


def test_the_tables_name_more_than_a_few() -> None:
    assert len(NAMES) > 30


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    exec(compile(program, "api.md", "exec"), {})
    assert re.fullmatch(r"\[\d+\.\d+\]\n", capsys.readouterr().out)
