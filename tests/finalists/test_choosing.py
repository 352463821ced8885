"""Which candidates of a search are worth a training."""

from dataclasses import replace

import pytest

from mvig_nas.errors import MvigNasError
from mvig_nas.finalists import choose
from mvig_nas.search import Study, search
from tests.sampler_contract import HALF, TOY, SizeLatency, WidthScore, no_costs


@pytest.fixture(scope="module")
def study() -> Study:
    return search(TOY, WidthScore(), SizeLatency(), HALF, evaluations=60, sampler="random", costs=no_costs)


def test_the_best_is_chosen_and_all_are_among_the_best(study: Study) -> None:
    chosen = choose(study, 6)
    assert len({each.fingerprint for each in chosen}) == 6
    assert chosen[0] == study.winner
    ranked = sorted((each.score for each in study.candidates if each.score is not None), reverse=True)
    assert min(each.score or 0 for each in chosen) >= ranked[23]
    assert [each.score for each in chosen] == sorted((each.score for each in chosen), reverse=True)  # type: ignore[type-var]
    assert choose(study, 6) == chosen


def test_they_differ_more_than_the_best_do(study: Study) -> None:
    def apart(fingerprints: list[str]) -> float:
        found = [TOY.encode(each.architecture) for each in study.candidates if each.fingerprint in fingerprints]
        pairs = [(one, other) for one in found for other in found if one is not other]
        return sum(sum(one[name] != other[name] for name in one) for one, other in pairs) / len(pairs)

    scored = sorted((each for each in study.candidates if each.score is not None), key=lambda each: -(each.score or 0))
    chosen = choose(study, 6)
    assert apart([each.fingerprint for each in chosen]) > apart([each.fingerprint for each in scored[:6]])


def test_fewer_candidates_than_asked_for_are_all_chosen(study: Study) -> None:
    scored = [each for each in study.candidates if each.score is not None]
    assert len(choose(replace(study, candidates=tuple(scored[:3])), 12)) == 3


def test_one_candidate_is_no_final() -> None:
    found = search(TOY, WidthScore(), SizeLatency(), HALF, evaluations=1, sampler="random", costs=no_costs)
    with pytest.raises(MvigNasError, match="at least 2 scored candidates, got 1 in this search; search longer"):
        choose(found, 4)
