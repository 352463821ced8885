"""What every measuring backend must do; a test of one inherits `BackendContract` and says how to make it."""

import math
from pathlib import Path

import pytest

from mvig_nas import device_log
from mvig_nas.device_log import COMPUTE_UNITS, Device
from mvig_nas.errors import MvigNasError
from mvig_nas.measure import Backend, MeasureSettings, Target, measure

BRIEF = MeasureSettings(rounds=2, iterations=3, cool_down_s=0.0, pause_s=0.0)


class BackendContract:
    """Subclass and give `backend`, `targets` (two networks that it runs) and `refused` (one that it does not)."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def targets(self, tmp_path: Path) -> list[Target]:
        raise NotImplementedError

    @pytest.fixture
    def refused(self, tmp_path: Path) -> Target:
        raise NotImplementedError

    def test_names_its_device_and_tools(self, backend: Backend) -> None:
        assert isinstance(backend.device, Device)
        assert backend.device.compute_units in COMPUTE_UNITS
        assert backend.name in {"coreml", "torch-cpu", "scripted"}
        assert "mvig-nas" in backend.tool_versions
        assert len(backend.unit) <= 8

    def test_runs_as_often_as_asked_and_closes_twice(self, backend: Backend, targets: list[Target]) -> None:
        loaded = backend.load(targets[0])
        for iterations in (1, 4):
            samples_ms = loaded.run(iterations)
            assert len(samples_ms) == iterations
            assert all(math.isfinite(sample_ms) and sample_ms > 0 for sample_ms in samples_ms)
        loaded.close()
        loaded.close()

    def test_measures_into_a_log_that_can_be_read(
        self, backend: Backend, targets: list[Target], tmp_path: Path
    ) -> None:
        path = tmp_path / "device.jsonl"
        session = measure(targets, backend, path, BRIEF)
        log = device_log.read(path)
        assert set(log.rows) == set(session.rows)
        assert log.device_key == backend.device
        assert set(log.networks) == {target.label for target in targets}
        assert {row.network for row in log.rows} == {target.network for target in targets}
        for row in log.rows:
            assert len(row.samples_ms) == BRIEF.rounds * BRIEF.iterations
            assert row.statistic == "trimmed_median"
            assert not row.placement or sum(row.placement.values()) == pytest.approx(1, abs=0.01)
            assert row.notes["reference"] == targets[0].label
            assert row.tool_versions == backend.tool_versions
        again = measure(targets, backend, path, BRIEF)
        assert again.rows == ()
        assert [target.label for target in again.skipped] == [target.label for target in targets]

    def test_refuses_what_it_cannot_run_before_it_measures_anything(
        self, backend: Backend, targets: list[Target], refused: Target, tmp_path: Path
    ) -> None:
        with pytest.raises(MvigNasError, match=r"measures (packages|architectures|networks)"):
            measure([*targets, refused], backend, tmp_path / "device.jsonl", BRIEF)
        assert not (tmp_path / "device.jsonl").exists()
        with pytest.raises(MvigNasError):
            backend.load(refused)
