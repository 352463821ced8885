"""Files of cells: Python's csv reads back what was written, and no cell is a formula. Locks are files of ours."""

import csv
import io
import os
from pathlib import Path

import pytest

from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, csv_text, holder


def test_commas_quotes_and_lines_stay_in_their_cell() -> None:
    cells = [["class", "images"], ["a, b", 3], ['say "x"', 4], ["two\nlines", 5]]
    assert list(csv.reader(io.StringIO(csv_text(cells)))) == [[str(cell) for cell in row] for row in cells]


@pytest.mark.parametrize("formula", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run_is_text(formula: str) -> None:
    ((cell, number),) = csv.reader(io.StringIO(csv_text([(formula, -0.5)]), newline=""))
    assert (cell, number) == (f"'{formula}", "-0.5")


def test_a_lock_names_who_has_it(tmp_path: Path) -> None:
    with claim(tmp_path / "lock") as is_ours:
        assert is_ours
        with claim(tmp_path / "lock") as is_ours_too:
            assert not is_ours_too
        assert holder(tmp_path / "lock") == f"process {os.getpid()}"


def test_a_lock_that_leads_out_of_its_folder_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear reader")
    (tmp_path / "lock").symlink_to(tmp_path / "letter")
    os.mkfifo(tmp_path / "pipe")
    for name in ("lock", "pipe"):
        with (
            pytest.raises(MvigNasError, match=f"{name} must be writable, got .*; take another"),
            claim(tmp_path / name),
        ):
            pass
    assert (tmp_path / "letter").read_text() == "dear reader"
