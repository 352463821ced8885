"""What all plots share."""

import pytest

from mvig_nas.plots import figure_axes, png


@pytest.mark.parametrize("name", ["$\\frac$", "$x_{", "a$b", "\\"])
def test_a_name_is_drawn_as_it_is_and_never_as_a_formula(name: str) -> None:
    def drawn(shown: str) -> bytes:
        figure, axes = figure_axes(shown, shown)
        axes.bar([shown, "other"], [1.0, 2.0], label=shown)
        axes.set_title(shown)
        axes.legend()
        return png(figure)

    assert drawn(name).startswith(b"\x89PNG")
    assert drawn("$a$") != drawn("a")
