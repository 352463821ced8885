"""What the values of a score are, and which of them can be told apart."""

import pytest

from mvig_nas.scores import Meaning, load, meaning_of


def test_a_top1_is_shown_in_per_cent_with_its_error() -> None:
    meaning = Meaning(is_top1=True, images=400)
    assert meaning.standard_error(0.5) == pytest.approx(0.025)
    assert meaning.shown(0.5) == "50.0 % ± 2.5"


def test_a_predicted_top1_has_the_error_of_its_fit() -> None:
    assert Meaning(is_top1=True, spread=0.01).shown(0.784) == "78.4 % ± 1.0"


def test_a_proxy_has_no_unit_and_no_error() -> None:
    meaning = meaning_of(load("log_macs"))
    assert meaning.shown(16.1) == "16.100"
    assert meaning.standard_error(16.1) is None
    assert meaning.alike([16.1, 16.0]) is None


def test_networks_within_two_standard_errors_of_the_difference_are_alike() -> None:
    meaning = Meaning(is_top1=True, spread=0.01)  # so 0.0283 is the least difference that tells two apart
    assert meaning.alike([0.70, 0.69, 0.672, 0.671, 0.60]) == 2
    assert meaning.alike([0.70]) == 0


def test_of_fewer_images_more_are_alike() -> None:
    values = [0.80, 0.78, 0.75, 0.70]
    assert Meaning(is_top1=True, images=100).alike(values) == 3
    assert Meaning(is_top1=True, images=10_000).alike(values) == 0
