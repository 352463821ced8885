"""A ranking ends with a calibrated score that a search can load."""

import random
from pathlib import Path

from mvig_nas import scores, shipped
from mvig_nas.ranking import Ranked, calibrate
from mvig_nas.search_space import SearchSpace


def test_a_ranking_becomes_a_score(tmp_path: Path) -> None:
    space = SearchSpace.from_toml(shipped.space_path("micro"))
    rng = random.Random(2)
    drawn = [space.sample(rng) for _ in range(12)]
    log_macs, log_params = scores.load("log_macs"), scores.load("log_params")
    rows = [
        Ranked(
            fingerprint=each.fingerprint,
            latency_ms=1.0,
            macs=1,
            accuracy=0.7 + 0.02 * (log_macs(each) - 15),
            estimates={"supernet": log_macs(each), "naswot": log_params(each), "zico": 3.0},
        )
        for each in drawn
    ]
    fit = calibrate(rows, {"supernet": "log_macs", "naswot": "log_params"}, tmp_path)
    assert fit is not None
    assert fit.left_out is not None
    assert fit.left_out.tau > 0.95
    assert scores.load(f"calibrated:{tmp_path}")(drawn[0]) - rows[0].accuracy < 2e-3
    assert calibrate(rows[:7], {"supernet": "log_macs"}, tmp_path / "few") is None
    assert calibrate(rows, {"zico": "zico"}, tmp_path / "same") is None
