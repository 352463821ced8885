"""What `predictor.json` in a predictor's folder holds, as a value; the arrays beside it are the models' own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_json
from mvig_nas.latency.features import FEATURES
from mvig_nas.latency.new_chip import ChipMove
from mvig_nas.latency.own_device import DeviceFit
from mvig_nas.latency.pooled import PooledSettings
from mvig_nas.values import about, read

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Description:
    """What `predictor.json` holds; `device_fit` and `groups` of a fit to one device, `terms` of a pooled one."""

    schema_version: int
    device: str
    hyperparameters: PooledSettings
    measurements: Mapping[str, int]
    errors: Mapping[str, float]
    features: tuple[str, ...]
    chips: tuple[str, ...]
    arrays_sha256: str | None = None  # the shipped predictors lack it
    terms: Mapping[str, float] | None = None
    groups: tuple[str, ...] = ()
    device_fit: DeviceFit | None = None
    chip_move: ChipMove | None = None
    interval_scale: Annotated[float, about("Factor of the intervals' width, in log, on this device.", gt=0, le=100)] = (
        1.0
    )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The description in a predictor's folder.

        Raises:
            MvigNasError: there is none, it is damaged, or it is of another schema or of other features.
        """
        path = folder / "predictor.json"
        try:
            content = read_json(path, "a predictor", "fit it again")
        except FileNotFoundError as error:
            raise MvigNasError(
                f"a predictor folder must hold predictor.json and predictor.npz, there is none in {folder}; check the "
                "path"
            ) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise MvigNasError(f"predictor schema must be {SCHEMA_VERSION}, got {version} in {folder}; fit it again")
        if content.get("features") != list(FEATURES):
            raise MvigNasError(
                f"a predictor must use this version's kernel features, {folder} uses others; fit it again"
            )
        if isinstance(content.get("errors"), dict):  # a correlation of equal figures is no number
            content["errors"] = {name: each for name, each in content["errors"].items() if each == each}  # noqa: PLR0124
        return read(cls, content, str(path))
