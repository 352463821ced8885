"""docs/optuna.md: its command and its examples run, one after the other."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvig_nas.cli import cli
from tests.strategies import REPOSITORY

PAGE = (REPOSITORY / "docs" / "optuna.md").read_text()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"```\nmvig-nas (.*?)\n```", PAGE)
    done = CliRunner().invoke(cli, command.split())
    assert done.exit_code == 0, done.output
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, "optuna.md", "exec"), names)
    assert len(blocks) == 5
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"history", "importances", "slice", "timeline", "front"}
