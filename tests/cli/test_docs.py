"""`mvig-nas docs` and `mvig-nas plans`: what ships is listed and can be read."""

import json
import re

import pytest
from click.testing import CliRunner

from mvig_nas import shipped
from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from tests.strategies import REPOSITORY


def test_pages_are_listed_and_printed() -> None:
    listed = CliRunner().invoke(cli, ["docs"]).output
    assert "quickstart_app" in listed
    assert "From a folder of images to an app" in listed
    for name in ("quickstart_app", "docs/quickstart_app.md"):
        shown = CliRunner().invoke(cli, ["docs", name]).output
        assert shown.strip() == (REPOSITORY / "docs" / "quickstart_app.md").read_text().strip()
    with pytest.raises(MvigNasError, match="no page is called 'quickstart'; did you mean 'quickstart_app'"):
        shipped.page("quickstart")


def test_every_page_that_the_program_names_is_there() -> None:
    for path in (REPOSITORY / "mvig_nas").rglob("*.py"):
        for name in re.findall(r"docs/(\w+)\.md", path.read_text()):
            assert name in shipped.page_names(), f"{path} names docs/{name}.md"


def test_plans_are_listed() -> None:
    shown = CliRunner().invoke(cli, ["plans"]).output
    assert "mobilevig-300ep" in shown
    plans = {each["name"]: each for each in json.loads(CliRunner().invoke(cli, ["plans", "--json"]).output)}
    assert plans["mobilevig-300ep"]["epochs"] == 300
    assert plans["mobilevig-300ep"]["distillation"]["teacher"]
    assert all(each["description"] for each in plans.values())
