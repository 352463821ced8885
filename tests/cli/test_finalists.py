"""`mvig-nas finalists`: from a search's folder to a measured winner, on the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvig_nas.cli import cli
from tests.images import write_images

PLAN = "epochs = 2\nbatch_size = 12\nlearning_rate = 5e-3\nwarmup_epochs = 1\n"


@pytest.mark.filterwarnings("ignore")
def test_from_a_search_to_a_winner_and_once_more(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    images, folder = write_images(tmp_path / "images", train=16), tmp_path / "run"
    (tmp_path / "plan.toml").write_text(PLAN)
    run("search", "--space", "micro", "--latency-budget", "0.42ms", "--score", "log_macs", "--evaluations", "6",
        "--out", str(folder))  # fmt: skip
    asked = ["finalists", str(folder), "--data", str(images)]
    plan = ["--plan", str(tmp_path / "plan.toml"), "--count", "2", "--hold-out", "0.25", "--trainings", "1"]
    shown = run(*asked, *plan)
    assert "2 finalists, ordered by top-1 on 12 held-out images" in shown
    assert "winner" in shown
    assert f"mvig-nas retrain {folder / 'finalists' / 'winner.json'} --data {images}" in shown
    again = json.loads(run(*asked, "--resume", "--json"))
    assert again["winner"] == json.loads((folder / "finalists" / "winner.json").read_text())["fingerprint"]
    refused = CliRunner().invoke(cli, [*asked, "--resume", "--count", "3"])
    assert refused.exit_code == 1
    assert "`--count` was 2 and is now 3" in str(refused.exception)
    described = run("describe", str(folder / "finalists" / "winner.json"))
    assert again["winner"] in described


@pytest.mark.filterwarnings("ignore")
def test_a_search_that_ends_with_its_finalists(tmp_path: Path) -> None:
    images, folder = write_images(tmp_path / "images", train=16), tmp_path / "run"
    asked = ["search", "--space", "micro", "--latency-budget", "0.42ms", "--score", "log_macs", "--evaluations", "6"]
    ends = ["--finalists", "2", "--max-epochs", "1", "--out", str(folder)]
    refused = CliRunner().invoke(cli, [*asked, *ends])
    assert refused.exit_code == 2
    assert "--finalists needs the images: --data FOLDER" in refused.output
    done = CliRunner().invoke(cli, [*asked, *ends, "--data", str(images)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 finalists, ordered by top-1" in done.stdout
    assert "The winner's top-1 is" in done.stdout
    again = CliRunner().invoke(cli, ["search", "--resume", *ends], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert "2 finalists, ordered by top-1" in again.stdout
