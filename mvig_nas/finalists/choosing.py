"""Which architectures of a search are worth a training: the best, and different ones among the nearly best."""

from collections.abc import Mapping

from mvig_nas.errors import MvigNasError
from mvig_nas.search.contracts import Candidate
from mvig_nas.search.study import Study

_POOL = 4  # of the best candidates, for every finalist


def choose(study: Study, count: int) -> tuple[Candidate, ...]:
    """The candidate of the highest score, then by turns the best one left and the one most unlike those chosen.

    A score orders the nearly best badly, so half of the places go to architectures that differ from the rest: in the
    most parameters of the search space from whichever chosen one is nearest. They come from the `4 * count` best.

    Args:
        study: a search with at least two scored candidates inside the budget.
        count: how many to choose; fewer are chosen where the study has fewer.

    Returns:
        The candidates, in the order of their scores.

    Raises:
        MvigNasError: the study has fewer than two scored candidates.
    """
    scored = [each for each in study.candidates if each.score is not None]
    if len(scored) < 2:
        raise MvigNasError(
            f"finalists are chosen among at least 2 scored candidates, got {len(scored)} in this search; search longer."
        )
    ranked = sorted(scored, key=lambda each: (-each.compared[0], each.compared[1], each.order))
    values = [study.settings.space.encode(each.architecture) for each in ranked]
    left = list(range(min(_POOL * count, len(ranked))))  # by their position in `ranked`
    chosen = [left.pop(0)]
    while left and len(chosen) < count:
        apart = [min(_differences(values[each], values[other]) for other in chosen) for each in left]
        chosen.append(left.pop(0 if len(chosen) % 2 else apart.index(max(apart))))
    return tuple(ranked[each] for each in sorted(chosen))


def _differences(one: Mapping[str, object], other: Mapping[str, object]) -> int:
    return sum(one.get(name) != other.get(name) for name in {**one, **other})
