"""What is installed: the wheel's contents, and that it works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.strategies import FAMILY_SPACES, REPOSITORY, SPACES


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(REPOSITORY)], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_code_spaces_and_predictors(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mvig_nas"}
    spaces = {name.partition("_shipped/search_spaces/")[2] for name in names if "_shipped/search_spaces" in name}
    experiments = {f"experiments/{path.name}" for path in (REPOSITORY / "search_spaces/experiments").glob("*.toml")}
    assert spaces - experiments == {f"{name}.toml" for name in (*SPACES, *FAMILY_SPACES)}
    assert len(experiments) >= 5
    assert experiments <= spaces
    assert "mvig_nas/recipes/small.toml" in names
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    assert {name.rpartition("/")[2] for name in names if "_shipped/docs" in name} == pages
    for device in ("iphone-12", "iphone-13", "iphone-13-mini", "iphone-14"):
        assert f"mvig_nas/_shipped/predictors/{device}/predictor.json" in names
    assert "mvig_nas/_shipped/predictors/published/measurements.csv" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 5_000_000


def test_the_installed_package_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    program = (
        "import mvig_nas, mvig_nas.shipped as s; from mvig_nas.cli import main; import sys;"
        f"assert mvig_nas.__file__.startswith({str(target)!r}), mvig_nas.__file__;"
        "assert '_shipped' in str(s.folder('predictors'));"
        "sys.argv = ['mvig-nas', 'docs', 'quickstart_app']; main();"
        "sys.argv = ['mvig-nas', 'spaces']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mobilevig-ti" in done.stdout
    assert "# From a folder of images to an app" in done.stdout
