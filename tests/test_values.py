"""Values read from plain data and checked by their annotations."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from mvig_nas.errors import MvigNasError
from mvig_nas.values import about, changed, check, plain, read


@dataclass(frozen=True)
class Images:
    mean: Annotated[tuple[float, float, float], about("The mean of the pixels, which becomes 0.")] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Training:
    epochs: Annotated[int, about("Passes over the training images.", ge=1)] = 3
    clip: Annotated[float, about("Gradients are clipped to this; not at all if missing.", gt=0)] | None = None
    mode: Annotated[Literal["value", "norm"], about("What is clipped.")] = "value"
    folder: Path | None = None
    images: Images = field(default_factory=Images)

    def __post_init__(self) -> None:
        check(self)


def test_plain_data_gives_the_value_again() -> None:
    value = Training(epochs=7, clip=0.5, folder=Path("there"), images=Images((0.0, 1.0, 2.0)))
    assert plain(value)["folder"] == "there"
    assert read(Training, plain(value), "a training") == value


def test_missing_entries_take_their_defaults_and_are_written() -> None:
    value = read(Training, {"epochs": 5}, "a training")
    assert value == Training(epochs=5)
    images = {"mean": [0.5, 0.5, 0.5]}
    assert plain(value) == {"epochs": 5, "clip": None, "mode": "value", "folder": None, "images": images}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epochs": 0}, "a training: `epochs` must be a whole number of at least 1, got 0."),
        ({"epochs": 3.5}, "a training: `epochs` must be a whole number, got 3.5."),
        ({"epochs": True}, "a training: `epochs` must be a whole number, got True."),
        ({"clip": -1}, "a training: `clip` must be a number above 0, got -1."),
        ({"mode": "nrom"}, "a training: `mode` must be one of 'value', 'norm', got 'nrom'; did you mean 'norm'?"),
        ({"images": {"mean": [1, 2]}}, r"a training: `images.mean` must be a list of length 3, got \[1, 2\]."),
        (
            {"images": {"mean": [1, 2, float("nan")]}},
            r"a training: `images.mean\[2\]` must be a finite number, got nan.",
        ),
        ({"epoch": 3}, "a training: there is no entry `epoch`; did you mean 'epochs'?"),
        ({"images": {"std": 1}}, "a training: there is no entry `images.std`; known: mean"),
    ],
)
def test_wrong_data_is_refused_by_name(data: dict[str, Any], message: str) -> None:
    with pytest.raises(MvigNasError, match=f"^{message}"):
        read(Training, data, "a training")


def test_a_value_made_in_python_is_held_against_the_same_rules() -> None:
    with pytest.raises(MvigNasError, match="`epochs` must be a whole number of at least 1, got 0"):
        Training(epochs=0)


def test_a_change_reaches_into_nested_values() -> None:
    value = changed(Training(), {"epochs": 9, "images": {"mean": (1.0, 1.0, 1.0)}})
    assert value == Training(epochs=9, images=Images((1.0, 1.0, 1.0)))
    with pytest.raises(MvigNasError, match="there is no entry 'epoch'; did you mean 'epochs'"):
        changed(Training(), {"epoch": 9})
