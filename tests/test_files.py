"""Files of cells: Python's csv reads back what was written, and no cell is a formula."""

import csv
import io

import pytest

from mvig_nas.files import csv_text


def test_commas_quotes_and_lines_stay_in_their_cell() -> None:
    cells = [["class", "images"], ["a, b", 3], ['say "x"', 4], ["two\nlines", 5]]
    assert list(csv.reader(io.StringIO(csv_text(cells)))) == [[str(cell) for cell in row] for row in cells]


@pytest.mark.parametrize("formula", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run_is_text(formula: str) -> None:
    ((cell, number),) = csv.reader(io.StringIO(csv_text([(formula, -0.5)]), newline=""))
    assert (cell, number) == (f"'{formula}", "-0.5")
