"""How an estimate agrees with stand-alone accuracy: statistics, intervals, table and plots."""

import io
import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import ndcg_score

from mvig_nas.errors import MvigNasError
from mvig_nas.ranking import (
    Agreement,
    Interval,
    Ranked,
    agreement,
    agreements,
    markdown_table,
    partial_tau,
    scatter_png,
    seed_ceiling,
    tau_difference,
    taus_png,
)

FEW = 200
# Few distinct values, so that ties are common.
LEVELS = st.integers(0, 6).map(lambda level: level / 8)
PAIRED = st.lists(st.tuples(LEVELS, LEVELS), min_size=4, max_size=14)


def varied(pairs: list[tuple[float, float]]) -> bool:
    return all(len(set(column)) > 1 for column in zip(*pairs, strict=True))


def related(count: int, noise: float, seed: int = 0) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    accuracies = rng.uniform(0.4, 0.8, count)
    return list(accuracies + noise * rng.normal(size=count)), list(accuracies)


def ranked(count: int = 16) -> list[Ranked]:
    rng = np.random.default_rng(3)
    accuracies = rng.uniform(0.5, 0.8, count)
    return [
        Ranked(
            fingerprint=f"print{place}",
            latency_ms=float(0.5 + accuracy),
            macs=int(1e8 * (1 + accuracy)),
            accuracy=float(accuracy),
            estimates={
                "zen": float(rng.normal()),
                "supernet": float(accuracy - 0.1 + 0.01 * rng.normal()),
                "upside_down": float(-accuracy),
                "constant": 1.0,
            },
        )
        for place, accuracy in enumerate(accuracies)
    ]


def intervals(found: Agreement) -> tuple[Interval, ...]:
    return (found.kendall_tau, found.spearman, found.top_k_overlap, found.ndcg, found.regret)


@given(PAIRED.filter(varied))
def test_values_are_those_of_scipy(pairs: list[tuple[float, float]]) -> None:
    scores, accuracies = map(list, zip(*pairs, strict=True))
    found = agreement(scores, accuracies, resamples=FEW)
    assert found.kendall_tau.value == pytest.approx(kendalltau(scores, accuracies).statistic, abs=1e-12)
    assert found.spearman.value == pytest.approx(spearmanr(scores, accuracies).statistic, abs=1e-12)


@given(PAIRED.filter(varied), st.integers(1, 5))
def test_ndcg_is_that_of_scikit_learn(pairs: list[tuple[float, float]], top_k: int) -> None:
    scores, accuracies = map(list, zip(*pairs, strict=True))
    found = agreement(scores, accuracies, top_k=top_k, resamples=FEW)
    gains = np.array(accuracies) - min(accuracies)
    assert found.ndcg.value == pytest.approx(ndcg_score([gains], [scores], k=found.top_k), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_resamples_are_those_drawn_one_by_one(seed: int) -> None:
    """The arithmetic on counts gives what scipy gives for the drawn lists; for tau without pairs of copies."""
    rng = np.random.default_rng(seed)
    scores, accuracies = rng.integers(0, 5, 9) / 10, rng.permutation(9) / 10
    order = np.lexsort([scores, accuracies])
    scores, accuracies = scores[order], accuracies[order]
    drawn = np.random.default_rng(seed).multinomial(9, np.full(9, 1 / 9), size=50)
    taus, rhos, overlaps, ndcgs, regrets = [], [], [], [], []
    for counts in drawn:
        copies = np.repeat(np.arange(9), counts)
        taus.append(kendalltau(scores[copies], accuracies[copies]).statistic)
        rhos.append(spearmanr(scores[copies], accuracies[copies]).statistic)
        unweighted = agreement(scores[copies].tolist(), accuracies[copies].tolist(), top_k=3, resamples=1)
        overlaps.append(unweighted.top_k_overlap.value)
        ndcgs.append(unweighted.ndcg.value)
        chosen = accuracies[copies][scores[copies] == scores[copies].max()]
        regrets.append(accuracies[copies].max() - chosen.mean())
    found = agreement(scores.tolist(), accuracies.tolist(), top_k=3, resamples=50, seed=seed, coverage=0.5)
    for interval, expected in zip(intervals(found), (taus, rhos, overlaps, ndcgs, regrets), strict=True):
        low, high = np.quantile(expected, [0.25, 0.75])
        assert interval.low == pytest.approx(min(low, interval.value))
        assert interval.high == pytest.approx(max(high, interval.value))


@given(st.lists(LEVELS, min_size=4, max_size=12, unique=True).map(sorted), st.integers(1, 3))
def test_perfect_and_reversed_order(accuracies: list[float], top_k: int) -> None:
    perfect = agreement(accuracies, accuracies, top_k=top_k, resamples=FEW)
    assert perfect.kendall_tau == perfect.spearman == perfect.top_k_overlap == Interval(1, 1, 1)
    assert perfect.ndcg.value == pytest.approx(1)
    assert perfect.regret == Interval(0, 0, 0)
    reverse = agreement([-value for value in accuracies], accuracies, top_k=top_k, resamples=FEW)
    assert reverse.kendall_tau == reverse.spearman == Interval(-1, -1, -1)
    assert reverse.regret.value == accuracies[-1] - accuracies[0]
    assert reverse.top_k_overlap.value == max(0, 2 * top_k - len(accuracies)) / top_k


@given(PAIRED.filter(varied))
def test_only_the_order_of_scores_matters(pairs: list[tuple[float, float]]) -> None:
    scores, accuracies = map(list, zip(*pairs, strict=True))
    bent = [math.exp(5 * score) - 100 for score in scores]
    assert agreement(bent, accuracies, resamples=FEW) == agreement(scores, accuracies, resamples=FEW)


@given(PAIRED.filter(varied), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[float, float]], shuffler: random.Random) -> None:
    shuffled = list(pairs)
    shuffler.shuffle(shuffled)
    one, other = (agreement(*zip(*some, strict=True), resamples=FEW) for some in (pairs, shuffled))
    assert one == other


@given(PAIRED.filter(varied), st.sampled_from((0.1, 0.5, 0.9)))
def test_an_interval_contains_its_value_and_is_in_range(pairs: list[tuple[float, float]], coverage: float) -> None:
    scores, accuracies = map(list, zip(*pairs, strict=True))
    found = agreement(scores, accuracies, coverage=coverage, resamples=FEW)
    for interval, lowest in zip(intervals(found), (-1, -1, 0, 0, 0), strict=True):
        assert lowest <= interval.low <= interval.value <= interval.high <= 1 + 1e-12


def test_an_interval_narrows_with_architectures_and_widens_with_coverage() -> None:
    def width(count: int, coverage: float = 0.9) -> float:
        tau = agreement(*related(count, 0.1), coverage=coverage).kendall_tau
        return tau.high - tau.low

    assert width(160) < 0.6 * width(20)
    assert width(40, 0.5) < width(40, 0.9) < width(40, 0.99)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = 2 / math.pi * math.asin(0.8)  # Kendall's tau of a normal pair with correlation 0.8
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        one, noise = rng.normal(size=(2, 30))
        tau = agreement(one, 0.8 * one + 0.6 * noise, resamples=300).kendall_tau
        hits += tau.low <= truth <= tau.high
    assert 165 <= hits <= 195


def test_the_seed_decides() -> None:
    scores, accuracies = related(12, 0.1)
    assert agreement(scores, accuracies, seed=4) == agreement(scores, accuracies, seed=4)
    assert agreement(scores, accuracies, seed=4) != agreement(scores, accuracies, seed=5)


def test_equal_scores_have_no_tau() -> None:
    for scores, accuracies in (([1.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]), ([1.0, 2.0, 3.0, 4.0, 5.0], [0.5] * 5)):
        found = agreement(scores, accuracies, top_k=2)
        for interval in (found.kendall_tau, found.spearman):
            assert all(map(math.isnan, (interval.value, interval.low, interval.high)))
    # Nothing chosen: the mean of all, and the overlap of chance.
    found = agreement([1.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], top_k=2)
    assert found.regret.value == pytest.approx(0.2)
    assert found.top_k_overlap.value == pytest.approx(2 / 5)


def test_nearly_all_equal_leaves_undefined_resamples_out() -> None:
    found = agreement([0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4])
    assert found.kendall_tau.value == pytest.approx(kendalltau([0, 0, 0, 1], [1, 2, 3, 4]).statistic)
    assert found.kendall_tau.low > 0
    assert found.kendall_tau.high == 1


@pytest.mark.parametrize(
    ("scores", "top_k", "overlap", "regret"),
    [
        ([1, 2, 3, 4, 5], 2, 1.0, 0.0),
        ([1, 2, 3, 5, 4], 2, 1.0, 0.1),
        ([1, 2, 3, 5, 4], 1, 0.0, 0.1),
        ([9, 2, 3, 4, 5], 2, 0.5, 0.4),
        ([1, 2, 5, 4, 5], 2, 0.5, 0.1),  # chosen: the mean of third and fifth
        ([1, 5, 4, 4, 4], 2, (1 / 3 + 1 / 3) / 2, 0.3),  # three share the second place
    ],
)
def test_overlap_and_regret_by_hand(scores: list[float], top_k: int, overlap: float, regret: float) -> None:
    found = agreement(scores, [0.5, 0.6, 0.7, 0.8, 0.9], top_k=top_k)
    assert found.top_k_overlap.value == pytest.approx(overlap)
    assert found.regret.value == pytest.approx(regret)


def test_top_k_is_less_than_all() -> None:
    scores, accuracies = [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]
    assert agreement(scores, accuracies).top_k == 3
    assert agreement(scores, accuracies, top_k=2).top_k == 2
    assert agreement(scores, accuracies).count == 4


def test_partial_tau_by_hand() -> None:
    # Two groups of latency: within each one pair is right and two are wrong; across them all is right.
    costs = [1.0, 1.1, 1.2, 4.0, 4.1, 4.2]
    accuracies = [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]
    scores = [3, 1, 2, 13, 11, 12]
    assert partial_tau(scores, accuracies, costs).value == pytest.approx(-1 / 3)
    assert agreement(scores, accuracies).kendall_tau.value == pytest.approx((9 + 2 - 4) / 15)
    # With ties: in the first group the pairs are tied, wrong, right; tau-b of both together.
    tied = partial_tau([1, 1, 0, 11, 12, 13], [0.1, 0.2, 0.15, 0.7, 0.8, 0.9], costs)
    assert tied.value == pytest.approx((3 + 1 - 1) / math.sqrt(5 * 6))


def test_partial_tau_exactly_at_the_factor_is_within() -> None:
    scores, accuracies, costs = [1, 0, 5, 9], [0.1, 0.2, 0.3, 0.4], [2.0, 3.0, 10.0, 100.0]
    assert partial_tau(scores, accuracies, costs, within=1.5).value == -1
    assert math.isnan(partial_tau(scores, accuracies, costs, within=1.4).value)


@given(PAIRED.filter(varied))
def test_partial_tau_of_all_pairs_is_tau(pairs: list[tuple[float, float]]) -> None:
    scores, accuracies = map(list, zip(*pairs, strict=True))
    costs = [1.0] * len(pairs)
    whole = agreement(scores, accuracies, resamples=FEW).kendall_tau
    # Sorted by cost, accuracy, score: the same resamples.
    assert partial_tau(scores, accuracies, costs, within=1, resamples=FEW) == whole


def test_size_alone_has_no_partial_tau() -> None:
    rng = np.random.default_rng(0)
    macs = np.exp(rng.uniform(0, 5, 60))
    accuracies = 0.1 * np.log(macs) + 0.05 * rng.normal(size=60)
    everywhere = agreement(macs.tolist(), accuracies.tolist()).kendall_tau
    near = partial_tau(macs.tolist(), accuracies.tolist(), macs.tolist(), within=1.2)
    assert near.low <= near.value <= near.high
    assert everywhere.value > 0.6
    assert near.value < 0.4


def test_agreements_has_every_estimator() -> None:
    rows = ranked()
    found = agreements(rows, top_k=3, coverage=0.8, resamples=FEW, seed=2)
    assert list(found) == ["zen", "supernet", "upside_down", "constant"]
    alone = agreement(
        [row.estimates["zen"] for row in rows],
        [row.accuracy for row in rows],
        top_k=3,
        coverage=0.8,
        resamples=FEW,
        seed=2,
    )
    assert found["zen"] == alone
    assert found["upside_down"].kendall_tau.value == -1


def test_huge_scores_do_not_overflow() -> None:
    assert agreement([-1e308, 0, 1.0, 1.7e308], [0.1, 0.2, 0.3, 0.4]).kendall_tau.value == 1


def test_refusals() -> None:
    four = [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(MvigNasError, match="at least 4 architectures, got 3"):
        agreement(four[:3], four[:3])
    with pytest.raises(MvigNasError, match="got 4 scores, 3 accuracies"):
        agreement(four, four[:3])
    with pytest.raises(MvigNasError, match="got 4 scores, 4 accuracies, 5 costs"):
        partial_tau(four, four, [*four, 5.0])
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(MvigNasError, match=f"scores must be finite, got {bad} at index 2"):
            agreement([1.0, 2.0, bad, 4.0], four)
        with pytest.raises(MvigNasError, match="accuracies must be finite"):
            agreement(four, [bad, 2.0, 3.0, 4.0])
        with pytest.raises(MvigNasError, match="costs must be finite"):
            partial_tau(four, four, [bad, 2.0, 3.0, 4.0])
    with pytest.raises(MvigNasError, match="costs must be positive, got 0"):
        partial_tau(four, four, [0.0, 1.0, 1.0, 1.0])
    for within in (0.9, math.nan):
        with pytest.raises(MvigNasError, match=f"factor of at least 1, got {within}"):
            partial_tau(four, four, four, within=within)
    with pytest.raises(MvigNasError, match="`top_k` must be at least 1, got 0"):
        agreement(four, four, top_k=0)
    with pytest.raises(MvigNasError, match="`resamples` must be at least 1, got 0"):
        agreement(four, four, resamples=0)
    for coverage in (0.0, 1.0, 90, math.nan):
        with pytest.raises(MvigNasError, match=f"between 0 and 1, got {coverage}"):
            agreement(four, four, coverage=coverage)


def test_agreements_refuses_rows_that_do_not_match() -> None:
    rows = ranked(6)
    with pytest.raises(MvigNasError, match="at least 4 architectures, got 0"):
        agreements([])
    with pytest.raises(MvigNasError, match="at least 4 architectures, got 3"):
        agreements(rows[:3])
    rows[4] = replace(rows[4], estimates={**rows[4].estimates, "zen": math.inf})
    with pytest.raises(MvigNasError, match="estimate zen: scores must be finite, got inf at index 4"):
        agreements(rows)
    rows[4] = replace(rows[4], estimates={"zen": 1.0, "supernet": 0.5, "constant": 1.0})
    with pytest.raises(MvigNasError, match="print4 and print0 differ in upside_down"):
        agreements(rows)


def test_table_is_sorted_and_in_points() -> None:
    found = agreements(ranked(), top_k=4, resamples=FEW)
    head, rule, *lines = markdown_table(found).splitlines()
    assert "top-4 overlap | nDCG@4" in head
    assert {line.count("|") for line in (head, rule, *lines)} == {7}
    assert [line.split(" | ")[0] for line in lines] == ["| supernet", "| zen", "| upside_down", "| constant"]
    tau, regret = found["supernet"].kendall_tau, found["upside_down"].regret
    assert f"| {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}] |" in lines[0]
    assert f"| {100 * regret.value:.2f} [{100 * regret.low:.2f}, {100 * regret.high:.2f}] |" in lines[2]
    assert lines[3].startswith("| constant | – | – |")


def picture(content: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(content))
    opened.load()
    assert opened.format == "PNG"
    return opened.convert("RGB")


def test_plots_are_pictures_and_reproduce() -> None:
    rows = ranked()
    names = {"print1": "the chosen one", "print5": "preset"}
    plain = scatter_png(rows, estimate_label="supernet")
    named = scatter_png(rows, estimate_label="supernet", special=names)
    assert picture(plain).size == picture(named).size == (936, 572)
    assert plain != named
    assert named == scatter_png(rows, estimate_label="supernet", special=names)
    found = agreements(rows, resamples=FEW)
    tall, short = picture(taus_png(found)), picture(taus_png({"zen": found["zen"]}))
    assert tall.width == short.width == 936
    assert tall.height > short.height > 150


def test_many_special_ones_are_ringed_but_not_named() -> None:
    rows = ranked()
    nine = [{row.fingerprint: name for row in rows[:9]} for name in ("one", "another")]
    assert scatter_png(rows, estimate_label="zen", special=nine[0]) == scatter_png(
        rows, estimate_label="zen", special=nine[1]
    )
    eight = [dict(itertools.islice(names.items(), 8)) for names in nine]
    assert scatter_png(rows, estimate_label="zen", special=eight[0]) != scatter_png(
        rows, estimate_label="zen", special=eight[1]
    )


def test_supernets_stand_out_in_the_bars() -> None:
    found = agreements(ranked(), resamples=FEW)
    accent = (0xD1, 0x49, 0x5B)

    def accented(names: dict[str, str]) -> int:
        image = np.asarray(picture(taus_png({name: found[source] for name, source in names.items()})))
        return int((image == accent).all(axis=2).sum())

    assert accented({"net": "supernet", "zen": "zen"}) == 0
    assert accented({"supernet, uniform": "supernet", "zen": "zen"}) > 1000


def test_a_plot_refuses_an_unknown_estimate() -> None:
    with pytest.raises(MvigNasError, match="got 'supernets': did you mean 'supernet'"):
        scatter_png(ranked(), estimate_label="supernets")
    with pytest.raises(MvigNasError, match="at least 4 architectures, got 0"):
        scatter_png([], estimate_label="supernet")


def test_the_ceiling_is_the_tau_of_the_seeds_with_each_other() -> None:
    first, second, third = (tuple(related(12, noise=0.05, seed=seed)[0]) for seed in (1, 2, 3))
    two = seed_ceiling(list(zip(first, second, strict=True)))
    assert two == agreement(first, second).kendall_tau
    pairs = [(first, second), (first, third), (second, third)]
    of_all = seed_ceiling(list(zip(first, second, third, strict=True)))
    assert of_all.value == pytest.approx(np.mean([kendalltau(*pair).statistic for pair in pairs]))
    assert of_all.low < of_all.value < of_all.high


@pytest.mark.parametrize("accuracies", [[], [(0.5,)] * 4, [(0.5, 0.6)] * 3 + [(0.5,)]])
def test_a_ceiling_needs_the_same_seeds_of_each(accuracies: list[tuple[float, ...]]) -> None:
    with pytest.raises(MvigNasError, match="the same two or more seeds, got"):
        seed_ceiling(accuracies)


def test_a_difference_of_taus_is_resampled_in_pairs() -> None:
    accuracies = [0.1 * place for place in range(12)]
    good = [place + (2.5 if place % 3 == 0 else 0.0) for place in range(12)]
    bad = [(-1.0) ** place * place for place in range(12)]
    difference = tau_difference(good, bad, accuracies)
    separate = agreement(good, accuracies), agreement(bad, accuracies)
    assert difference.value == pytest.approx(separate[0].kendall_tau.value - separate[1].kendall_tau.value)
    assert 0 < difference.low <= difference.value <= difference.high
    same = tau_difference(good, [math.exp(score) for score in good], accuracies)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    with pytest.raises(MvigNasError, match="each architecture needs one of each"):
        tau_difference(good, bad[1:], accuracies)
