"""Every command and program in the README runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images import write_images
from tests.strategies import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


def test_make_targets_exist() -> None:
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets == ["search", "test"]
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    # What `make search` runs is the search that the README shows.
    assert "mvig-nas search --latency-budget 1.0ms" in makefile


def test_commands_run_in_the_order_shown(tmp_path: Path) -> None:
    commands = [command for command in COMMANDS if command.startswith("mvig-nas ")]
    assert len(commands) == 22
    write_images(tmp_path / "images", train=40)
    for command in commands:
        arguments = shlex.split(command)[1:]
        # The same, cut short.
        if arguments == ["search", "--latency-budget", "1.0ms"] or "supernet:results/runs/supernet" in arguments:
            arguments += ["--evaluations", "3"]
        elif arguments[:2] == ["supernet", "train"] or arguments[0] == "retrain":
            arguments += ["--epochs", "2"]
        elif arguments[0] == "run":
            arguments += ["--hours", "1", "--finalists", "0", "--max-epochs", "1"]
        elif arguments[0] == "finalists":
            arguments += ["--count", "2", "--max-epochs", "2"]
        elif arguments[:2] == ["supernet", "rank"]:
            arguments += ["-n", "4", "--epochs", "1", "--no-proxies"]
        elif arguments[0] == "measure":
            arguments += ["--pause", "0.1s"]  # which a busy computer would be given
        program = [sys.executable, "-c", "from mvig_nas.cli import main; main()", *arguments]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout


def test_programs_run(capsys: pytest.CaptureFixture[str]) -> None:
    programs = [block for language, block in BLOCKS if language == "python"]
    assert programs
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[")


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("supernet", r"True\n"),
        ("finalists", r"2 finished\n"),
        ("retraining", r"\[42, 84, 168, 256\]\n"),
        ("measuring_on_iphone", r"\d+\.\d+ -?\d+\.\d+\n"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_programs_of_pages_run(
    name: str, printed: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images", train=40)
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / f"{name}.md").read_text(), flags=re.DOTALL)
    assert programs
    for program in programs:
        exec(compile(program, f"{name}.md", "exec"), {})
    assert re.fullmatch(printed, capsys.readouterr().out)


def test_links_lead_somewhere() -> None:
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name} links to {link}"
