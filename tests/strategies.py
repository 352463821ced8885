"""Hypothesis strategies shared by the suite."""

import random
from pathlib import Path

from hypothesis import strategies as st

from mvig_nas.architecture import Architecture
from mvig_nas.search_space import SearchSpace

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
SPACES = {
    name: SearchSpace.from_toml(REPOSITORY / "search_spaces" / f"{name}.toml")
    for name in ("micro", "mobilevig", "mobilevig-ti", "toy")
}


def spaces() -> st.SearchStrategy[SearchSpace]:
    """The shipped spaces."""
    return st.sampled_from(sorted(SPACES.values(), key=lambda space: space.name))


def architectures(space: SearchSpace) -> st.SearchStrategy[Architecture]:
    """Architectures of a space, every parameter free to shrink."""
    return st.fixed_dictionaries({key: st.sampled_from(choices) for key, choices in space.choices.items()}).map(
        space.decode
    )


def generators() -> st.SearchStrategy[random.Random]:
    """Seeded random number generators."""
    return st.integers(0, 2**32).map(random.Random)
