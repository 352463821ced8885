"""A score by its name, as the search calls it: `scores.load("naswot", seed=0)(architecture)`."""

from dataclasses import dataclass
from math import isfinite, log
from pathlib import Path
from typing import Protocol

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.scores.meaning import TRAIN
from mvig_nas.scores.spectral_gap import SpectralGapScore
from mvig_nas.search_space import SearchSpace


class Score(Protocol):
    """What a search maximises: higher is better, and the same architecture always has the same value."""

    @property
    def name(self) -> str:
        """The name by which `load` finds it."""

    def __call__(self, architecture: Architecture) -> float:
        """The value of an architecture, which is finite."""


@dataclass(frozen=True)
class CostScore:
    """A baseline that is the logarithm of a cost."""

    name: str

    def __call__(self, architecture: Architecture) -> float:
        totals = kernels.totals(kernels.of(architecture))
        return log(totals.macs if self.name == "log_macs" else totals.parameters)


@dataclass(frozen=True)
class NetworkScore:
    """A proxy computed on a fresh network and noise, both drawn from `seed`, on one thread.

    Raises, when called:
        MvigNasError: the proxy has no finite value for the architecture.
    """

    name: str
    seed: int
    resolution: int | None
    batch_size: int

    def __call__(self, architecture: Architecture) -> float:
        import torch

        from mvig_nas.scores.fresh_networks import PROXIES, one_thread, scaled

        target = scaled(architecture, self.resolution)
        generator = torch.Generator().manual_seed(self.seed)
        with one_thread():
            value = PROXIES[self.name](target, self.batch_size, generator)
        if not isfinite(value):
            raise MvigNasError(
                f"a score must be finite, got {self.name} {value} for architecture {architecture.fingerprint}; "
                "take another seed or score."
            )
        return value


# The batch size that each proxy takes by itself; SynFlow always takes one image.
_BATCH_SIZES = {"naswot": 16, "synflow": 1, "zico": 4, "zen": 8, "grad_norm": 8, "snip": 8}
# Scores that are known from the architecture, so that there is nothing to choose.
_FREE: dict[str, Score] = {
    score.name: score
    for score in (
        CostScore("log_macs"),
        CostScore("log_params"),
        SpectralGapScore(),
    )
}

NAMES: tuple[str, ...] = (*_BATCH_SIZES, *_FREE)
DEFAULT = "naswot"


def takes_cores(score: Score) -> bool:
    """Whether several processes compute a score faster than one: it takes a core's time, and not a GPU's."""
    if score.name in _FREE:
        return False
    if isinstance(score, NetworkScore):
        return True
    import torch

    return not torch.cuda.is_available()


def load(
    name: str = DEFAULT,
    *,
    seed: int = 0,
    resolution: int | None = None,
    batch_size: int | None = None,
    data: Path | None = None,
    space: SearchSpace | None = None,
    skipping_in: Path | None = None,
) -> Score:
    """A score by its name.

    Args:
        name: one of `NAMES`, `supernet:PATH` for top-1 of a trained supernet's sub-networks, `calibrated:FOLDER` for
            the top-1 that is predicted of a network trained alone, or `train:PLAN` for the top-1 of a short training.
        seed: of weights and inputs; `log_macs`, `log_params` and `spectral_gap` have none to draw.
        resolution: side of the images in pixels, for all architectures alike; None for half of each one's own.
        batch_size: images a pass, at least 2; None for the proxy's own. SynFlow always takes one.
        data: folder of the images that the supernet was trained on, or that short trainings train on.
        space: what will be searched, and a supernet must hold; None to leave that unchecked.
        skipping_in: folder of the run whose list of images that cannot be read is left out, as in `SupernetScore`.

    Raises:
        MvigNasError: an unknown name, a seed, resolution or batch size out of range, or see `SupernetScore`.
    """
    if name.startswith("supernet:"):
        from mvig_nas.scores.supernet_score import load_supernet_score

        score = load_supernet_score(name, data, skipping_in)
        if space is not None:
            score.check_space(space)
        return score
    if name.startswith("calibrated:"):
        from mvig_nas.scores.calibrated_score import CalibratedScore

        return CalibratedScore(
            Path(name.removeprefix("calibrated:")),
            lambda used, seed: load(used, seed=seed, data=data, space=space, skipping_in=skipping_in),
        )
    if name.startswith(TRAIN):
        from mvig_nas.scores.trained_score import load_trained_score

        return load_trained_score(name, data, skipping_in)
    if name not in NAMES:
        raise MvigNasError(
            f"no score is called {name!r}; {closest(name, NAMES)} Or supernet:PATH, calibrated:FOLDER or train:PLAN."
        )
    _require("seed", seed, 0)
    if resolution is not None:
        _require("resolution", resolution, 32)
    if batch_size is not None:
        _require("batch_size", batch_size, 2)
    if name in _FREE:
        return _FREE[name]
    return NetworkScore(name, seed, resolution, _BATCH_SIZES[name] if batch_size is None else batch_size)


def _require(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise MvigNasError(f"`{name}` of a score must be an integer of at least {least}, got {value!r}.")
