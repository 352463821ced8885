"""Many packages in one folder: the manifest, going on after kills, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mvig_nas import coreml
from mvig_nas.architecture import Architecture
from mvig_nas.cli import cli
from mvig_nas.coreml import BulkOptions, BulkProgress, export_all, read_manifest
from mvig_nas.coreml.bulk_export import ManifestEntry
from mvig_nas.coreml.package import content_sha256
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim
from mvig_nas.values import plain
from tests.coreml.test_conversion import TINY

COMMAND = [sys.executable, "-m", "mvig_nas"]
# A shell starts what runs in the background with SIGINT ignored, and the suite may be such.
HEARING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from mvig_nas.cli import main; main()"
)
OPTIONS = BulkOptions(num_classes=5)


def tiny(count: int) -> list[Architecture]:
    return [replace(TINY, head_width=16 + 8 * place) for place in range(count)]


def entries(folder: Path) -> dict[str, ManifestEntry]:
    manifest = read_manifest(folder)
    assert manifest is not None
    found = {entry.fingerprint: entry for entry in manifest.packages}
    assert len(found) == len(manifest.packages)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    export_all(tiny(3), folder, OPTIONS)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """Three packages."""
    return shutil.copytree(exported, tmp_path / "packages")


def test_packages_and_manifest(folder: Path) -> None:
    found = entries(folder)
    assert list(found) == [each.fingerprint for each in tiny(3)]
    for architecture in tiny(3):
        package, entry = folder / f"{architecture.fingerprint}.mlpackage", found[architecture.fingerprint]
        assert entry.package == package.name
        assert entry.sha256 == content_sha256(package)
        assert entry.coremltools_version == pytest.importorskip("coremltools").__version__
        assert entry.verified is not None
        assert entry.verified.difference_fp32 is not None
        assert entry.verified.difference_fp32 < 1e-3
        coreml.verify(package, architecture, coreml.untrained(architecture, 5))
    assert sorted(each.name for each in folder.iterdir() if not each.name.startswith(".")) == sorted(
        [*(f"{each.fingerprint}.mlpackage" for each in tiny(3)), "manifest.json"]
    )


def test_what_stands_is_kept_and_more_is_added(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.mlpackage")}
    seen: list[BulkProgress] = []
    done = export_all([*tiny(4), TINY], folder, OPTIONS, on_progress=seen.append)
    assert done.written == 1
    assert not done.failed
    assert [path.stem for path in done.packages] == [each.fingerprint for each in tiny(4)]
    assert [(state.done, state.total) for state in seen] == [(4, 4)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(entries(folder)) == 4


def test_a_package_written_just_before_a_kill_is_taken_over(folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    lost = values["packages"].pop()
    (folder / "manifest.json").write_text(json.dumps(values))
    path = folder / lost["package"]
    before = path.stat().st_mtime_ns
    export_all(tiny(3), folder, OPTIONS)
    assert plain(entries(folder)[lost["fingerprint"]]) == lost
    assert path.stat().st_mtime_ns == before


def test_a_changed_package_is_told_and_the_others_are_written(folder: Path) -> None:
    changed = folder / f"{TINY.fingerprint}.mlpackage"
    weights = next(changed.rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = export_all(tiny(4), folder, OPTIONS)
    assert done.written == 1
    assert list(done.failed) == [TINY.fingerprint]
    assert "SHA-256 is another than the manifest's; delete it" in done.failed[TINY.fingerprint]
    assert weights.read_bytes() == content


def test_unverified_packages_are_verified_when_asked(tmp_path: Path) -> None:
    export_all(tiny(1), tmp_path, OPTIONS, is_verified=False)
    assert entries(tmp_path)[TINY.fingerprint].verified is None
    assert export_all(tiny(1), tmp_path, OPTIONS, is_verified=False).written == 0
    export_all(tiny(1), tmp_path, OPTIONS)
    assert entries(tmp_path)[TINY.fingerprint].verified is not None


def test_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="`--input` was 'image' and is now 'tensor'"):
        export_all(tiny(1), folder, replace(OPTIONS, input_kind="tensor"))
    with pytest.raises(MvigNasError, match="there must be an architecture to export, got none"):
        export_all([], tmp_path / "none")
    with claim(folder / ".lock"), pytest.raises(MvigNasError, match=f"one export .*process {os.getpid()} is"):
        export_all(tiny(1), folder, OPTIONS)
    (folder / "manifest.json").write_text('{"schema": 1, "pack')
    with pytest.raises(MvigNasError, match=r"a manifest must be readable JSON, got .*manifest\.json; take another"):
        export_all(tiny(1), folder, OPTIONS)
    (tmp_path / "file").write_text("")
    with pytest.raises(MvigNasError, match="must be writable"):
        export_all(tiny(1), tmp_path / "file", OPTIONS)


def test_killed_with_its_workers_and_run_again_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "archs.jsonl").write_text("".join(each.to_json() + "\n" for each in tiny(6)))
    arguments = ["export", "archs.jsonl", "--out", "packages", "--jobs", "2", "--num-classes", "5", "--json"]
    folder = tmp_path / "packages"
    child = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(list(folder.glob("*.mlpackage"))) >= 2)
    workers = children(child.pid)
    assert len(workers) >= 2
    child.kill()
    child.wait()
    until(lambda: not any(is_running(pid) for pid in workers))
    survived = {path: path.stat().st_mtime_ns for path in folder.glob("*.mlpackage")}
    assert 2 <= len(survived) < 6

    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert sorted(json.loads(done.stdout)["packages"]) == sorted(f"{each.fingerprint}.mlpackage" for each in tiny(6))
    assert {path: path.stat().st_mtime_ns for path in survived} == survived
    assert len(entries(folder)) == 6
    assert all(entry.verified for entry in entries(folder).values())
    assert {each.name for each in folder.iterdir()} == {
        *(f"{each.fingerprint}.mlpackage" for each in tiny(6)), "manifest.json", ".lock",
    }  # fmt: skip


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "archs.jsonl").write_text("".join(each.to_json() + "\n" for each in tiny(40)))
    child = subprocess.Popen(
        [sys.executable, "-c", HEARING, "export", "archs.jsonl", "--num-classes", "5"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: bool((manifest := read_manifest(tmp_path / "archs")) and manifest.packages))
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted; finished packages are in archs. To go on, run the same command again." in errors
    assert len(entries(tmp_path / "archs")) >= 1


def test_command_line_refuses_options_of_the_other_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    Path("archs.jsonl").write_text(TINY.to_json() + "\n{}\n")
    for arguments, message in (
        (["archs.jsonl", "--overwrite"], "--overwrite is of a single package"),
        (["mobilevig_ti", "--jobs", "2"], "--jobs is of a FILE.jsonl"),
        (["archs.jsonl"], "archs.jsonl, line 2"),
        (["missing.jsonl"], "a file of architectures must be readable text"),
    ):
        result = CliRunner().invoke(cli, ["export", *arguments])
        assert result.exit_code != 0
        assert message in result.output + str(result.exception)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
