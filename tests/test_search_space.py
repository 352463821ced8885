import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvig_nas.architecture import FAMILY_PRESETS, PRESETS, Architecture
from mvig_nas.constraints import UNCONSTRAINED, Constraints
from mvig_nas.errors import MvigNasError
from mvig_nas.search_space import PARAMETER_NAMES, SearchSpace
from tests.strategies import FAMILY_SPACES, SPACES, architectures, generators, spaces

MOBILEVIG, TI_SPACE, TOY = SPACES["mobilevig"], SPACES["mobilevig-ti"], SPACES["toy"]


@given(st.data(), spaces())
def test_decode_inverts_encode(data: st.DataObject, space: SearchSpace) -> None:
    architecture = data.draw(architectures(space))
    assert architecture in space
    assert space.decode(space.encode(architecture)) == architecture


@given(spaces(), generators(), st.floats(0.01, 1))
def test_samples_mutants_and_children_stay_in_the_space(
    space: SearchSpace, rng: random.Random, probability: float
) -> None:
    one, other = space.sample(rng), space.sample(rng)
    mutant = space.mutate(one, rng, probability)
    assert one in space
    assert mutant in space
    assert mutant != one
    assert space.crossover(one, other, rng) in space


@given(spaces(), generators())
def test_a_child_has_its_parents_values(space: SearchSpace, rng: random.Random) -> None:
    free = replace(space, constraints=UNCONSTRAINED)  # which may put a third value in
    one, other = free.sample(rng), free.sample(rng)
    values, first, second = (free.encode(each) for each in (free.crossover(one, other, rng), one, other))
    used = {key for key in values if free.encode(free.decode(values)) == values}
    assert all(values[key] in (first[key], second[key], free.choices[key][0]) for key in used)


def test_the_same_seed_gives_the_same_architectures() -> None:
    draws = [[MOBILEVIG.sample(rng) for _ in range(5)] for rng in (random.Random(7), random.Random(7))]
    assert draws[0] == draws[1]


def test_shipped_spaces_hold_what_they_promise() -> None:
    for name in ("mobilevig", "small"):
        drawn = [SearchSpace.load(name).sample(random.Random(seed)) for seed in range(30)]
        for architecture in drawn:
            widths = [stage.width for stage in architecture.stages]
            assert widths == sorted(widths)
            assert all(stage.conv_depth + stage.graph_depth for stage in architecture.stages)
            assert any(stage.graph_depth for stage in architecture.stages)
    assert MOBILEVIG.size >= 10**15
    assert all(architecture in MOBILEVIG for architecture in PRESETS.values())
    assert [name for name, architecture in PRESETS.items() if architecture in TI_SPACE] == [
        "mobilevig_ti",
        "mobilevig_s",
    ]
    assert all(architecture in FAMILY_SPACES["vig-family"] for architecture in FAMILY_PRESETS.values())
    assert [name for name, architecture in FAMILY_PRESETS.items() if architecture in FAMILY_SPACES["mobilevigv2"]] == [
        "mobilevigv2_ti",
        "mobilevigv2_s",
        "mobilevigv2_m",
        "mobilevigv2_b",
    ]
    operators = {
        name for number in (1, 2, 3, 4) for name in FAMILY_SPACES["vig-family"].stage_choices(number)["graph_operator"]
    }
    assert operators == {"svga", "mgc", "lsgc", "dagc", "knn"}
    assert {len(choices) > 1 for choices in MOBILEVIG.choices.values()} == {True}
    assert set(PARAMETER_NAMES) - set(MOBILEVIG.choices) == {
        f"stage{number}.{name}" for number in range(1, 5) for name in ("graph_cpe", "graph_scale")
    }


def test_switches_may_be_left_out() -> None:
    on = _edited(stage3__graph_cpe=[True], stage3__graph_scale=[False, True])
    space = SearchSpace.from_dict(on)
    assert SearchSpace.from_dict(space.to_dict()) == space
    assert "stage3.graph_cpe" not in TOY.choices
    largest = space.largest
    assert (largest.stages[2].graph_cpe, largest.stages[2].graph_scale) == (True, True)
    assert space.smallest.stages[2].graph_scale is None
    assert largest not in TOY
    assert TOY.largest not in space  # its third stage has no encoding
    with pytest.raises(MvigNasError, match=r"space 'toy' has no `stage3.graph_cpe`, got True"):
        TOY.encode(largest)
    values = space.encode(space.largest)
    assert (values["stage3.graph_cpe"], values["stage3.graph_scale"]) == (True, True)
    with pytest.raises(MvigNasError, match=r"`graph_scale` must be true, false or null, got 2"):
        SearchSpace.from_dict(_edited(stage3__graph_scale=[2]))
    with pytest.raises(MvigNasError, match=r"`graph_step` of lsgc must be at least 2, got 1"):
        SearchSpace.from_dict(_edited(stage2__graph_operator=["svga", "lsgc"]))


def test_size_counts_different_architectures() -> None:
    few = {key: values[:1] for key, values in TOY.choices.items()}
    few |= {
        "stage2.conv_depth": (0, 1),
        "stage2.conv_expansion": (2, 4),
        "stage3.graph_depth": (0, 1, 2),
        "stage3.graph_operator": ("svga", "knn"),
        "stage3.graph_step": (1, 2),
        "stage3.ffn_expansion": (2, 4),
        "stage3.graph_cpe": (False, True),
        "resolution": (64, 96),
    }
    space = SearchSpace("few", few)
    every = {space.decode(dict(zip(few, values, strict=True))) for values in itertools.product(*few.values())}
    assert space.size == len(every)


def test_smallest_and_largest_are_the_ends_of_every_parameter() -> None:
    smallest, largest = TI_SPACE.smallest, TI_SPACE.largest
    assert (smallest.resolution, largest.resolution) == (192, 224)
    assert [stage.width for stage in smallest.stages] == [24, 48, 112, 192]
    assert [stage.width for stage in largest.stages] == [48, 96, 192, 400]
    assert (smallest.stages[3].graph_step, largest.stages[3].graph_step) == (3, 1)
    assert (smallest.stages[3].graph_groups, largest.stages[3].graph_groups) == (4, 1)


def test_neighbours_differ_in_one_parameter() -> None:
    values = TOY.encode(TOY.smallest)
    found = TOY.neighbours(TOY.smallest)
    assert len(found) == len(set(found))
    for neighbour in found:
        other = TOY.encode(neighbour)
        # Switching blocks on brings their first choices, which `smallest` shows as such.
        assert sum(values[key] != other[key] for key in values) >= 1
        assert neighbour in TOY
    widths = {neighbour.stages[0].width for neighbour in found}
    assert widths == {8, 12}


def test_outside_is_refused_by_name() -> None:
    base = PRESETS["mobilevig_ti"]
    outside = Architecture(base.stages, head_width=500)
    assert outside not in MOBILEVIG
    with pytest.raises(
        MvigNasError, match=r"`head_width` must be one of \(384, 512, 768\) in space 'mobilevig', got 500"
    ):
        MOBILEVIG.encode(outside)
    assert "not an architecture" not in MOBILEVIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage9.width": 8}, "has no parameter 'stage9.width'; did you mean"),
        ({"stage2.width": 13}, r"`stage2.width` must be one of \(12, 16\) in space 'toy', got 13"),
        ({"stage2.width": None}, "a value for `stage2.width` is missing"),
    ],
)
def test_decode_refuses(change: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in (TOY.encode(TOY.smallest) | change).items() if value is not None}
    with pytest.raises(MvigNasError, match=message):
        TOY.decode(values)


@pytest.mark.parametrize("probability", [0, -0.1, 1.5])
def test_mutate_refuses_a_probability_outside(probability: float) -> None:
    with pytest.raises(MvigNasError, match=r"`probability` must be in \(0, 1\]"):
        TOY.mutate(TOY.smallest, random.Random(0), probability)


def test_mutate_in_a_space_of_one_returns_it() -> None:
    one = SearchSpace("one", {key: values[:1] for key, values in TOY.choices.items()})
    assert one.mutate(one.smallest, random.Random(0)) == one.smallest


def _edited(**changes: Any) -> dict[str, Any]:
    values = TOY.to_dict()
    for key, value in changes.items():
        stage, _, name = key.rpartition("__")
        (values["stage"][int(stage[-1]) - 1] if stage else values)[name or key] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (_edited(resolutoin=[64]), "no entry 'resolutoin'; did you mean 'resolution'"),
        (_edited(stage2__widht=[8]), "no parameter 'stage2.widht'; did you mean 'stage2.width'"),
        (_edited(stage2__width=[]), "`stage2.width` must have at least one choice, got none"),
        (_edited(stage2__width=[8, 8]), "`stage2.width` repeats a choice"),
        (_edited(stage2__width=8), "`stage2.width` must be a list of choices, got 8"),
        (_edited(stage2__width=[9, 12]), "`width` must be divisible by `graph_groups`, got width 9 and graph_groups 2"),
        (_edited(stage1__width=[9]), "`stage1.width` must be even, got 9"),
        (_edited(stage1__activation=["mish"]), "stage1: `activation` must be one of"),
        (_edited(stage1__graph_depth=[0], stage1__graph_operator=["svfa"]), "operator` must be one of .*mean 'svga'"),
        (_edited(stage4__conv_kernel=[4]), "stage4: `conv_kernel` must be odd, got 4"),
        (_edited(stage3__graph_step=[1, 4]), "`stage3.graph_step` must be below the stage's size, 2 pixels"),
        (_edited(head_width=[0]), "`head_width` must be an integer of at least 1, got 0"),
        (_edited(schema=2), "`schema` must be 1, got 2"),
        (_edited(name=""), "must have a `name`"),
        (_edited(stage=[]), r"must have 4 \[\[stage\]\] tables"),
        ({key: value for key, value in _edited().items() if key != "resolution"}, "lacks `resolution`"),
    ],
)
def test_space_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        SearchSpace.from_dict(values)


def test_space_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match=r"no search space file at .*none\.toml"):
        SearchSpace.from_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(MvigNasError, match=r"a search space file must be TOML, got .* in .*broken\.toml"):
        SearchSpace.from_toml(broken)
    broken.write_text("schema = 1\nname = 'x'")
    with pytest.raises(MvigNasError, match=r"broken\.toml: a search space must have 4"):
        SearchSpace.from_toml(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(MvigNasError, match=r"must be readable text"):
        SearchSpace.from_toml(broken)


def test_dictionary_round_trip() -> None:
    for space in (*SPACES.values(), *FAMILY_SPACES.values()):
        assert SearchSpace.from_dict(space.to_dict()) == space


SENSIBLE = Constraints(least_blocks=1, least_graph_blocks=1, widths_may_fall=False)
FALLING = {"stage1.width": (16, 24), "stage2.width": (12, 16, 24), "stage3.width": (16, 20), "stage4.width": (12, 24)}


def _constrained(space: SearchSpace, **changes: Any) -> SearchSpace:
    return SearchSpace("constrained", {**space.choices, **FALLING}, constraints=replace(SENSIBLE, **changes))


def _keeps(architecture: Architecture, constraints: Constraints) -> bool:
    """The constraints once more, in other words."""
    widths = [stage.width for stage in architecture.stages]
    return (
        all(stage.conv_depth + stage.graph_depth >= constraints.least_blocks for stage in architecture.stages)
        and sum(stage.graph_depth for stage in architecture.stages) >= constraints.least_graph_blocks
        and (constraints.widths_may_fall or all(one <= other for one, other in itertools.pairwise(widths)))
    )


class TestConstraints:
    @given(st.integers(0, 2), st.integers(0, 3), st.booleans(), generators(), st.floats(0.01, 1))
    @settings(deadline=None)
    def test_samples_mutants_children_and_neighbours_keep_them(
        self, blocks: int, graph_blocks: int, may_fall: bool, rng: random.Random, probability: float
    ) -> None:
        asked = {"least_blocks": min(blocks, 1), "least_graph_blocks": graph_blocks, "widths_may_fall": may_fall}
        space = _constrained(TOY, **asked)
        one, other = space.sample(rng), space.sample(rng)
        mutant = space.mutate(one, rng, probability)
        found = [one, other, mutant, space.crossover(one, other, rng), space.smallest, space.largest]
        for architecture in (*found, *space.neighbours(one)[:5]):
            assert _keeps(architecture, space.constraints)
            assert architecture in space
            assert space.decode(space.encode(architecture)) == architecture
        assert mutant != one

    @given(st.data())
    @settings(deadline=None)
    def test_every_setting_means_an_architecture_that_keeps_them(self, data: st.DataObject) -> None:
        space = _constrained(TOY)
        free = SearchSpace("free", space.choices)
        values = data.draw(st.fixed_dictionaries({key: st.sampled_from(each) for key, each in space.choices.items()}))
        architecture, as_it_stands = space.decode(values), free.decode(values)
        assert _keeps(architecture, SENSIBLE)
        assert (architecture == as_it_stands) == _keeps(as_it_stands, SENSIBLE)
        assert (as_it_stands in space) == _keeps(as_it_stands, SENSIBLE)

    @pytest.mark.parametrize("graph_blocks", [0, 2, 3])
    @pytest.mark.parametrize("blocks", [0, 1])
    @pytest.mark.parametrize("may_fall", [False, True])
    def test_size_is_exact(self, blocks: int, graph_blocks: int, may_fall: bool) -> None:
        few = {key: values[:1] for key, values in TOY.choices.items()} | FALLING
        few |= {f"stage{number}.graph_depth": (0, 1) for number in (2, 3)} | {"stage4.graph_depth": (0, 2)}
        few |= {"stage2.conv_depth": (0, 1), "stage3.conv_depth": (0,), "stage3.graph_cpe": (False, True)}
        constraints = Constraints(blocks, graph_blocks, may_fall)
        space = SearchSpace("few", few, constraints=constraints)
        free = SearchSpace("free", few)
        every = {free.decode(dict(zip(few, values, strict=True))) for values in itertools.product(*few.values())}
        kept = {architecture for architecture in every if _keeps(architecture, constraints)}
        assert space.size == len(kept)
        assert {space.decode(space.encode(architecture)) for architecture in kept} == kept

    def test_published_networks_keep_what_is_sensible(self) -> None:
        for name, members in (("mobilevig", PRESETS), ("mobilevig-ti", {}), ("micro", {})):
            space = replace(SPACES[name], constraints=SENSIBLE)
            assert 0 < space.size <= SPACES[name].size
            assert all(architecture in space for architecture in members.values())

    def test_a_file_holds_them(self) -> None:
        values = _edited(constraints={"least_blocks": 1, "widths_may_fall": False})
        space = SearchSpace.from_dict(values)
        assert space.constraints == Constraints(least_blocks=1, widths_may_fall=False)
        assert SearchSpace.from_dict(space.to_dict()) == space
        assert "constraints" not in TOY.to_dict()
        stages = tuple(replace(stage, conv_depth=0, graph_depth=0) for stage in TOY.smallest.stages)
        with pytest.raises(MvigNasError, match=r"must keep its constraints: `least_blocks` is 1, but stage 2 has 0"):
            space.encode(replace(TOY.smallest, stages=(TOY.smallest.stages[0], *stages[1:])))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"constraints": {"least_blocks": -1}}, r"the table \[constraints\]: `least_blocks` must be .* at least 0"),
            ({"constraints": {"least_block": 1}}, "there is no entry `least_block`; did you mean 'least_blocks'"),
            ({"constraints": {"least_blocks": 9}}, "`least_blocks` must be possible, got 9 where stage 1 has"),
            ({"constraints": {"least_graph_blocks": 99}}, "`least_graph_blocks` must be possible, got 99"),
            (
                {"constraints": {"widths_may_fall": False}, "stage2__width": [32], "stage3__width": [16]},
                "`widths_may_fall` must be true where widths cannot but fall, got stage 2 of at least 32",
            ),
        ],
    )
    def test_refuses(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(MvigNasError, match=message):
            SearchSpace.from_dict(_edited(**changes))
