"""Hypothesis strategies shared by the suite."""

import random
from pathlib import Path

from hypothesis import strategies as st

from mvig_nas.architecture import Architecture
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.search_space import SearchSpace

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


def _shipped(*names: str) -> dict[str, SearchSpace]:
    return {name: SearchSpace.from_toml(REPOSITORY / "search_spaces" / f"{name}.toml") for name in names}


SPACES = _shipped("micro", "mobilevig", "mobilevig-ti", "toy", "small", "mcu")
FAMILY_SPACES = _shipped("mobilevigv2", "vig-family")

# Small networks of every graph operator, with and without what goes with it.
FAMILY = SearchSpace(
    "family",
    {
        "resolution": (128,),
        "head_width": (16,),
        **{
            f"stage{number}.{name}": values
            for number in range(1, 5)
            for name, values in {
                "width": (8, 12),
                "conv_depth": (0, 1),
                "graph_depth": (0, 1, 2) if number > 1 else (0,),
                "conv_expansion": (2,),
                "conv_kernel": (3,),
                "ffn_expansion": (2, 3),
                "graph_step": (2, 3),
                "graph_operator": tuple(OPERATORS),
                "graph_groups": (1, 2),
                "activation": ("gelu", "relu"),
                "graph_cpe": (False, True),
                "graph_scale": (False, True),
            }.items()
        },
    },
)


def spaces() -> st.SearchStrategy[SearchSpace]:
    """The shipped spaces."""
    return st.sampled_from([*SPACES.values(), *FAMILY_SPACES.values()])


def architectures(space: SearchSpace) -> st.SearchStrategy[Architecture]:
    """Architectures of a space, every parameter free to shrink."""
    return st.fixed_dictionaries({key: st.sampled_from(choices) for key, choices in space.choices.items()}).map(
        space.decode
    )


def generators() -> st.SearchStrategy[random.Random]:
    """Seeded random number generators."""
    return st.integers(0, 2**32).map(random.Random)
