"""docs/quickstart_research.md: its parts run one after the other, and find what they say."""

import re
from pathlib import Path
from typing import Any

import pytest

from mvig_nas.search import Study
from tests.strategies import REPOSITORY

PAGE = (REPOSITORY / "docs" / "quickstart_research.md").read_text()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "quickstart_research.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^mine: \d\S* networks$", printed, flags=re.MULTILINE)
    for sampler in ("random", "evolution", "tpe"):
        assert re.search(rf"^{sampler} +best score \d", printed, flags=re.MULTILINE)
        for seed in range(3):
            study = Study.load(Path(f"{sampler}-{seed}"))
            assert study.winner is not None
            assert study.winner.latency_ms <= names["budget"].latency_ms
            assert sum(stage.graph_depth for stage in study.winner.architecture.stages) >= 1
    assert Path("history.png").stat().st_size > 0
    assert Path("importances.png").stat().st_size > 0


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert len(links) > 5
    for link in links:
        assert (REPOSITORY / "docs" / link).exists(), link
