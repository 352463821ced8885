"""Experiment files: the shipped ones, the cells they make, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from mvig_nas.architecture import Architecture, Stage, preset
from mvig_nas.errors import MvigNasError
from mvig_nas.experiments import AblateRequest, Experiment, OperatorAlone, cells_of, experiment_names
from mvig_nas.experiments.experiment import changed_architecture
from mvig_nas.experiments.matching import TOLERANCE, adjusted, matched_cells
from mvig_nas.kernels import of, totals
from mvig_nas.latency import ArchitectureLatency

TINY = Architecture(
    (
        Stage(8, conv_depth=1, conv_expansion=2),
        Stage(12, conv_depth=1, conv_expansion=2),
        Stage(16, graph_depth=1, graph_step=1, ffn_expansion=2),
        Stage(24, conv_depth=1, conv_expansion=2),
    ),
    head_width=32,
    resolution=64,
)
CELLS = {
    "activation-and-groups": 15,
    "beyond-classification": 5,
    "fixed-vs-dynamic": 3,
    "graph-step": 20,
    "operators": 5,
    "svga-vs-knn": 2,
    "tiny-devices": 1,
    "with-and-without-graph": 5,
}


def experiment(**changes: object) -> Experiment:
    return replace(Experiment("trial", "Does it?", TINY, cells={"as it is": {}}), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def latency() -> ArchitectureLatency:
    return ArchitectureLatency.load("iphone-13-mini")


class TestShipped:
    def test_all_are_known(self) -> None:
        assert experiment_names() == tuple(sorted(CELLS))

    @pytest.mark.parametrize("name", CELLS)
    def test_every_file_makes_its_cells_and_matches_them(self, name: str, latency: ArchitectureLatency) -> None:
        loaded = Experiment.load(name)
        assert loaded.name == name
        assert loaded.question.endswith("?")
        cells = matched_cells(loaded, cells_of(loaded), latency)
        assert len(cells) == CELLS[name] == len({cell.architecture.fingerprint for cell in cells})
        for cell in cells:
            assert cell.matched is None or abs(cell.matched - 1) <= TOLERANCE
        if loaded.plan is not None:
            assert loaded.seeds >= 3
            with pytest.raises(MvigNasError, match=r"trains its cells by the plan 'small' and must have images"):
                AblateRequest(loaded)

    def test_the_grid_of_steps_is_whole(self) -> None:
        steps = {cell.name: cell.architecture.stages[1].graph_step for cell in cells_of(Experiment.load("graph-step"))}
        assert steps["K 7, large, 96 px"] == 7
        assert set(steps.values()) == {1, 2, 3, 4, 7}


class TestChanges:
    def test_of_all_stages_of_one_and_of_those_with_graph_blocks(self) -> None:
        made = changed_architecture(
            TINY, [{"stages.activation": "relu6", "stage2.activation": "relu"}, {"graph_stages.graph_groups": 4}]
        )
        assert [stage.activation for stage in made.stages] == ["relu6", "relu", "relu6", "relu6"]
        assert [stage.graph_groups for stage in made.stages] == [None, None, 4, None]

    def test_blocks_that_were_not_there_take_the_usual_choices(self) -> None:
        made = changed_architecture(TINY, [{"stage4.graph_depth": 1, "stage4.graph_step": 1, "resolution": 128}])
        assert made.stages[3].graph_operator == "svga"
        assert made.resolution == 128

    def test_of_widths(self) -> None:
        assert [stage.width for stage in changed_architecture(TINY, [{"width_factor": 1.5}]).stages] == [12, 16, 24, 36]

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ([{"stage5.width": 8}], "a change cannot set 'stage5.width'; did you mean 'stage"),
            ([{"depth": 8}], "a change cannot set 'depth'; "),
            ([{"width_factor": 0}], "`width_factor` must be a number above 0, got 0"),
            ([{"stage1.width": 8}, {"stages.width": 16}], "got 8 and 16 for `stage1.width`; put them in one axis"),
            ([{"graph_stages.graph_groups": 3}], "divisible by `graph_groups`, got width 16 and graph_groups 3"),
            ([{"stage3.graph_step": 4}], "`stage3.graph_step` must be below the stage's size, 4 pixels"),
        ],
    )
    def test_that_make_no_network_are_refused(self, changes: list[dict[str, int]], told: str) -> None:
        with pytest.raises(MvigNasError, match=told):
            changed_architecture(TINY, changes)  # type: ignore[arg-type]


class TestExperiment:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"question": " "}, "must have a `question`, got none"),
            ({"cells": {}}, "must have a cell, got none"),
            ({"axes": {"K": {}}}, "axis 'K' must have at least one change"),
            ({"reference": "as it was"}, "`reference` must name a cell, got 'as it was'; did you mean 'as it is'"),
            ({"unmatched": ("other",)}, "`unmatched` must name a cell, got 'other'"),
            ({"leave_out": ("other",)}, "`leave_out` must name cells of the grid, got 'other'"),
            ({"axes": {"one": {"as it is": {}}}}, "the names of cells must differ"),
            ({"match": "memory"}, "`match` must be one of 'latency', 'macs', got 'memory'"),
            ({"seeds": 0}, "`seeds` must be a whole number of at least 1"),
        ],
    )
    def test_what_is_wrong_is_refused(self, changes: dict[str, object], told: str) -> None:
        with pytest.raises(MvigNasError, match=told):
            experiment(**changes)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"operators": ("swga",)}, "`operators` must be of .*got 'swga'"),
            ({"maps": (7,)}, "two maps larger than its step"),
            ({"maps": (2, 7)}, "two maps larger than its step"),
        ],
    )
    def test_operators_alone(self, changes: dict[str, tuple[object, ...]], told: str) -> None:
        with pytest.raises(MvigNasError, match=told):
            OperatorAlone(**changes)  # type: ignore[arg-type]

    def test_a_cell_outside_the_space_is_named(self) -> None:
        asked = experiment(space="mobilevig-ti", base=preset("mobilevig_ti"), cells={"narrow": {"stage1.width": 10}})
        with pytest.raises(MvigNasError, match=r"cell 'narrow' of experiment 'trial': `stage1\.width` must be one of"):
            cells_of(asked)

    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        text = 'schema = 1\nquestion = "Is it?"\nbase = "mobilevig_ti"\nresolution = 192\n[cells]\none = {}\n'
        path.write_text(text)
        loaded = Experiment.load(str(path))
        assert (loaded.name, loaded.reference_name, loaded.base.resolution) == ("mine", "one", 192)
        for wrong, told in (
            (text.replace("schema = 1", "schema = 2"), "`schema` must be 1, got 2"),
            (text.replace("question", "qestion"), "there is no entry `qestion`; did you mean 'question'"),
            (text.replace("_ti", "_tie"), "no preset and no file is called 'mobilevig_tie'"),
            (text[:-4], "must be TOML, got"),
        ):
            path.write_text(wrong)
            with pytest.raises(MvigNasError, match=told):
                Experiment.load(str(path))
        with pytest.raises(MvigNasError, match="no experiment is called 'svga-knn'; did you mean 'svga-vs-knn'"):
            Experiment.load("svga-knn")
        with pytest.raises(MvigNasError, match="no experiment file at"):
            Experiment.load(str(tmp_path / "none.toml"))


class TestMatching:
    def test_macs(self, latency: ArchitectureLatency) -> None:
        asked = experiment(match="macs", cells={"one": {}, "two": {"stage3.graph_depth": 3}})
        one, two = matched_cells(asked, cells_of(asked), latency)
        assert one.architecture == TINY
        assert not one.adjustment
        assert totals(of(two.architecture)).macs == pytest.approx(totals(of(TINY)).macs, rel=TOLERANCE)
        assert two.architecture.stages[2].graph_depth == 3
        assert two.adjustment.startswith("8-12-16-24 to ")

    def test_latency_and_a_cell_that_stays(self, latency: ArchitectureLatency) -> None:
        cells = {"one": {}, "two": {"stage1.conv_depth": 4}, "three": {"stage1.conv_depth": 4}}
        asked = experiment(base=preset("mobilevig_ti"), match="latency", cells=cells, unmatched=("three",))
        one, two, three = matched_cells(asked, cells_of(asked), latency)
        one_ms, two_ms, three_ms = latency.predict_ms([each.architecture for each in (one, two, three)]).tolist()
        assert two_ms == pytest.approx(one_ms, rel=TOLERANCE)
        assert three_ms > one_ms
        assert (three.matched, three.adjustment) == (None, "")

    def test_what_cannot_be_reached_is_refused_with_the_nearest(self, latency: ArchitectureLatency) -> None:
        asked = experiment(match="latency", cells={"one": {}, "deep": {"stages.conv_depth": 12}})
        with pytest.raises(MvigNasError, match=r"cell 'deep' .* no widths do; the nearest, 8-12-16-24 to .*ms \(\+\d"):
            matched_cells(asked, cells_of(asked), latency)

    def test_widths_stay_multiples_of_groups(self) -> None:
        grouped = changed_architecture(TINY, [{"stage3.graph_groups": 4}])
        made = adjusted(grouped, 3e6, lambda networks: [float(totals(of(each)).macs) for each in networks])
        assert made.stages[2].width % 4 == 0
        assert made.stages[0].width % 2 == 0
