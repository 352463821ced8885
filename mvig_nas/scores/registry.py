"""A score by its name, as the search calls it: `scores.load("naswot", seed=0)(architecture)`."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.search_space import SearchSpace

if TYPE_CHECKING:
    import torch

CLASSES = 1000
SMALLEST = 96  # pixels; three at the last stage, where a step of 1 still leaves links


class Score(Protocol):
    """What a search maximises: higher is better, and the same architecture always has the same value."""

    @property
    def name(self) -> str:
        """Name that `load` knows."""

    def __call__(self, architecture: Architecture) -> float:
        """Finite value of this architecture."""


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

        from mvig_nas.scores.prepare import one_thread, scaled

        target = scaled(architecture, self.resolution)
        generator = torch.Generator().manual_seed(self.seed)
        with one_thread():
            value = _PROXIES[self.name][0](target, self.batch_size, generator)
        if not isfinite(value):
            raise MvigNasError(
                f"a score must be finite, got {self.name} {value} for architecture {architecture.fingerprint}; "
                "take another seed or score."
            )
        return value


# The inputs are drawn before the weights, so that all architectures of one resolution see the same ones.
def _naswot(architecture: Architecture, batch_size: int, generator: "torch.Generator") -> float:
    from mvig_nas.scores.naswot_proxy import naswot
    from mvig_nas.scores.prepare import fresh_network, noise

    images = noise(batch_size, architecture.resolution, generator, channels_last=True)
    return naswot(fresh_network(architecture, generator), images)


def _synflow(architecture: Architecture, _: int, generator: "torch.Generator") -> float:
    from mvig_nas.scores.prepare import fresh_network, noise
    from mvig_nas.scores.synflow_proxy import synflow

    return synflow(fresh_network(architecture, generator), noise(1, architecture.resolution, generator))


def _zico(architecture: Architecture, batch_size: int, generator: "torch.Generator") -> float:
    from mvig_nas.scores.prepare import fresh_network, labels, noise
    from mvig_nas.scores.zico_proxy import zico

    batches = [(noise(batch_size, architecture.resolution, generator), labels(batch_size, generator)) for _ in range(2)]
    return zico(fresh_network(architecture, generator), batches)


def _zen(architecture: Architecture, batch_size: int, generator: "torch.Generator") -> float:
    from mvig_nas.scores.prepare import fresh_network, noise
    from mvig_nas.scores.zen_proxy import zen

    images, disturbance = (noise(batch_size, architecture.resolution, generator, channels_last=True) for _ in range(2))
    return zen(fresh_network(architecture, generator, unit=True), images, disturbance)


def _grad_norm(architecture: Architecture, batch_size: int, generator: "torch.Generator") -> float:
    from mvig_nas.scores.gradients import grad_norm
    from mvig_nas.scores.prepare import fresh_network, labels, noise

    images, targets = noise(batch_size, architecture.resolution, generator), labels(batch_size, generator)
    return grad_norm(fresh_network(architecture, generator), images, targets)


def _snip(architecture: Architecture, batch_size: int, generator: "torch.Generator") -> float:
    from mvig_nas.scores.gradients import snip
    from mvig_nas.scores.prepare import fresh_network, labels, noise

    images, targets = noise(batch_size, architecture.resolution, generator), labels(batch_size, generator)
    return snip(fresh_network(architecture, generator), images, targets)


Proxy = Callable[[Architecture, int, "torch.Generator"], float]

# Each proxy with its batch size.
_PROXIES: dict[str, tuple[Proxy, int]] = {
    "naswot": (_naswot, 16),
    "synflow": (_synflow, 1),
    "zico": (_zico, 4),
    "zen": (_zen, 8),
    "grad_norm": (_grad_norm, 8),
    "snip": (_snip, 8),
}
_COSTS = ("log_macs", "log_params")

NAMES: tuple[str, ...] = (*_PROXIES, *_COSTS)
DEFAULT = "naswot"


def load(
    name: str = DEFAULT,
    *,
    seed: int = 0,
    resolution: int | None = None,
    batch_size: int | None = None,
    data: Path | None = None,
    space: SearchSpace | None = None,
) -> Score:
    """A score by its name.

    Args:
        name: one of `NAMES`, or `supernet:PATH` for top-1 of a trained supernet's sub-networks.
        seed: of weights and inputs; the baselines `log_macs` and `log_params` have none to draw.
        resolution: side of the images in pixels, for all architectures alike; None for half of each one's own.
        batch_size: images a pass, at least 2; None for the proxy's own. SynFlow always takes one.
        data: folder of the images that the supernet was trained on.
        space: what will be searched, and a supernet must hold; None to leave that unchecked.

    Raises:
        MvigNasError: an unknown name, a seed, resolution or batch size out of range, or see `SupernetScore`.
    """
    if name.startswith("supernet:"):
        from mvig_nas.scores.supernet_score import load_supernet_score

        score = load_supernet_score(name, data)
        if space is not None:
            score.check_space(space)
        return score
    if name not in NAMES:
        raise MvigNasError(f"no score is called {name!r}; {closest(name, NAMES)} Or supernet:PATH.")
    _require("seed", seed, 0)
    if resolution is not None:
        _require("resolution", resolution, 32)
    if batch_size is not None:
        _require("batch_size", batch_size, 2)
    if name in _COSTS:
        return CostScore(name)
    return NetworkScore(name, seed, resolution, _PROXIES[name][1] if batch_size is None else batch_size)


def _require(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise MvigNasError(f"`{name}` of a score must be an integer of at least {least}, got {value!r}.")
