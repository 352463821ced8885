"""Top-1 predicted from scores: the fit against scikit-learn's, honest errors, files, and what is refused."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from mvig_nas import scores, shipped
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.report import preset_rows, write_report
from mvig_nas.scores import CalibratedScore, fit_calibrated, load, save_calibrated
from mvig_nas.scores.calibrated_score import FILE, CalibratedFit
from mvig_nas.search.search_run import SearchRequest, run_search
from mvig_nas.search.search_settings import SearchSettings
from mvig_nas.search_space import SearchSpace

SPACE = SearchSpace.from_toml(shipped.space_path("micro"))
NAMES = ("log_macs", "log_params")


def networks(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, 2) and top-1 (n,) of networks whose top-1 is linear in the first score, but for 1 point."""
    rng = np.random.default_rng(seed)
    columns = rng.normal([15, 13], [0.6, 0.4], (count, 2))
    return columns, 0.7 + 0.05 * (columns[:, 0] - 15) + rng.normal(0, 0.01, count)


def fitted(count: int = 24, seed: int = 0) -> CalibratedFit:
    columns, top1 = networks(count, seed)
    return fit_calibrated(dict(zip(NAMES, columns.T.tolist(), strict=True)), top1.tolist())


def test_it_is_ridge_regression_on_the_chosen_scores() -> None:
    columns, top1 = networks(24)
    fit = fitted()
    assert "log_macs" in fit.scores
    used = [NAMES.index(name) for name in fit.scores]
    standard = StandardScaler().fit_transform(columns[:, used])
    among = [Ridge(alpha).fit(standard, top1).predict(standard) for alpha in (0.1, 0.3, 1, 3, 10)]
    assert min(float(np.abs(fit.predict(columns[:, used]) - each).max()) for each in among) < 1e-12


def test_errors_are_those_of_networks_left_out() -> None:
    fit = fitted(40)
    assert fit.left_out is not None
    assert 0.006 < fit.left_out.mean_error < 0.011  # 0.8 of a deviation of 1 point
    assert fit.left_out.tau > 0.7
    fresh_columns, fresh = networks(4000, seed=9)
    low, high = fit.interval(fresh_columns[:, [NAMES.index(name) for name in fit.scores]])
    assert 0.7 < float(((low <= fresh) & (fresh <= high)).mean()) < 0.9
    noise = fit_calibrated({"log_macs": networks(40)[0][:, 0].tolist()}, networks(40, seed=5)[1].tolist())
    assert noise.left_out is not None
    assert noise.left_out.tau < 0.3


def test_far_away_it_is_less_sure_and_says_so() -> None:
    fit = fitted()
    middle = np.array(fit.means)
    away = middle + 8 * np.array(fit.deviations)
    widths = np.subtract(*fit.interval(np.array([middle, away]))[::-1])
    assert widths[1] > widths[0]
    assert fit.outside(middle.tolist()) == ()
    assert fit.outside(away.tolist()) == fit.scores


def test_a_search_can_load_it_by_name(tmp_path: Path) -> None:
    rng = random.Random(1)
    drawn = [SPACE.sample(rng) for _ in range(20)]
    columns = {name: [scores.load(name)(each) for each in drawn] for name in NAMES}
    top1 = [0.7 + 0.02 * (value - 15) for value in columns["log_macs"]]
    save_calibrated(fit_calibrated(columns, top1), tmp_path)
    score = scores.load(f"calibrated:{tmp_path}", space=SPACE)
    assert isinstance(score, CalibratedScore)
    assert score.name == f"calibrated:{tmp_path}"
    assert score(drawn[0]) == pytest.approx(top1[0], abs=2e-3)
    low, high = score.interval(drawn[0])
    assert low <= score(drawn[0]) <= high
    assert score.outside(drawn[0]) == ()
    assert scores.load(f"calibrated:{tmp_path / FILE}")(drawn[3]) == score(drawn[3])


def test_a_supernet_is_found_where_the_folder_is_moved_to(tmp_path: Path) -> None:
    columns, top1 = networks(12)
    there = tmp_path / "run" / "ranking"
    there.mkdir(parents=True)
    estimates = {f"supernet:{tmp_path}/run@0a1b": columns[:, 0].tolist()}
    file = save_calibrated(fit_calibrated(estimates, top1.tolist()), there)
    assert json.loads(file.read_text())["scores"] == ["supernet:..@0a1b"]
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(MvigNasError, match="needs images to measure top-1 on"):
        scores.load(f"calibrated:{tmp_path}/moved/ranking")
    with pytest.raises(MvigNasError, match="moved"):
        scores.load(f"calibrated:{tmp_path}/moved/ranking", data=tmp_path)


@pytest.mark.parametrize(
    ("estimates", "top1", "says"),
    [
        ({"log_macs": [1.0] * 3}, [0.5] * 3, "at least 8 networks with every score, got 3"),
        ({}, [0.5] * 9, "got 9 networks and 0 scores"),
        ({"log_macs": list(range(9))}, [0.5] * 10, "got 10 networks"),
        ({"log_macs": [float("nan"), *range(8)]}, [0.5] * 9, "must be finite"),
        ({"log_macs": [2.0] * 9}, [0.5] * 9, "score 'log_macs' must differ between networks"),
    ],
)
def test_what_cannot_be_fitted_is_refused(estimates: dict[str, list[float]], top1: list[float], says: str) -> None:
    with pytest.raises(MvigNasError, match=says):
        fit_calibrated(estimates, top1)


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="as `supernet rank` writes it, must be a file, got none"):
        scores.load(f"calibrated:{tmp_path}")
    file = save_calibrated(fitted(), tmp_path)
    whole = json.loads(file.read_text())
    for change, says in (
        ({"top1": "high"}, "`top1` must be a number"),
        ({"weights": []}, "one of each other value for every score"),
        ({"deviations": [0.0] * len(whole["scores"])}, "one positive deviation"),
        ({"schema": 2}, "`schema` must be"),
        ({"odd": 1}, "there is no entry `odd`"),
        ({"scores": ["odd"] * len(whole["scores"])}, "no score is called 'odd'"),
    ):
        file.write_text(json.dumps(whole | change))
        with pytest.raises(MvigNasError, match=says):
            scores.load(f"calibrated:{tmp_path}")
    file.write_bytes(b"\xff\x00")
    with pytest.raises(MvigNasError, match="rank networks first"):
        scores.load(f"calibrated:{tmp_path}")


def test_a_search_by_it_ends_with_a_top1_and_its_error(tmp_path: Path) -> None:
    space = SearchSpace.load("micro")
    rng = random.Random(0)
    sampled = [space.sample(rng) for _ in range(12)]
    cost = load("log_macs")
    top1 = [0.05 * cost(each) - 0.2 + 0.01 * rng.gauss(0, 1) for each in sampled]
    ranking = tmp_path / "ranking"
    ranking.mkdir()
    save_calibrated(fit_calibrated({"log_macs": [cost(each) for each in sampled]}, top1), ranking)
    request = SearchRequest(
        space="micro",
        score=f"calibrated:{ranking}",
        budget=Budget(latency_ms=0.45),
        settings=SearchSettings(evaluations=12, sampler="random"),
    )
    done = run_search(request, tmp_path / "run")
    files = write_report(done, preset_rows(done), "mvig-nas search")
    winner = json.loads(files["winner"].read_text())
    assert winner["score_unit"] == "top-1"
    assert 0.001 < winner["score_standard_error"] < 0.05
    assert 0 <= winner["not_told_from_winner"] < 12
    assert f"{100 * winner['score']:.1f} % ±" in files["report"].read_text()
    assert "cannot be told from the winner" in files["report"].read_text()
