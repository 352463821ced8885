"""What `ablate` is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from mvig_nas.errors import MvigNasError
from mvig_nas.experiments.experiment import Experiment
from mvig_nas.recipes import Execution
from mvig_nas.values import about, check

EXECUTION = Execution("cpu", channels_last=True, validate_every=0)


@dataclass(frozen=True)
class AblateRequest:
    """What `ablate` is asked for; it is kept in the run's `run.json`.

    Raises:
        MvigNasError: a value is out of range, or the experiment trains networks and there are no images.
    """

    TITLE: ClassVar = "Experiment"
    MAY_DIFFER: ClassVar = ("data", "execution")  # in a resumed run

    experiment: Experiment
    data: Path | None = None
    epochs: (
        Annotated[int, about("Epochs of each training; the experiment's, or else its plan's, if left out.", ge=1)]
        | None
    ) = None
    seeds: Annotated[int, about("Trainings of each cell; the experiment's if left out.", ge=1)] | None = None
    device: (
        Annotated[
            str,
            about(
                "Phone to predict latency for, or a folder with a fitted predictor; the experiment's if left out.",
                metavar="NAME|FOLDER",
            ),
        ]
        | None
    ) = None
    accuracy: Annotated[
        bool,
        about("Train the cells, where the experiment has a plan for it.", flags=("--accuracy/--no-accuracy",)),
    ] = True
    only_cells: Annotated[
        tuple[str, ...],
        about(
            "Run the reference and the cells whose names hold this text, and no others; may be given several times.",
            flags=("--cell",),
            metavar="TEXT",
        ),
    ] = ()
    host: Annotated[bool, about("Measure the cells' latency on this computer's CPU.", flags=("--host/--no-host",))] = (
        True
    )
    execution: Execution = EXECUTION

    def __post_init__(self) -> None:
        check(self)
        if self.is_training and self.data is None:
            raise MvigNasError(
                f"experiment {self.experiment.name!r} trains its cells by the plan {self.experiment.plan!r} and must "
                "have images, got none; give --data FOLDER, or --no-accuracy for what needs no training."
            )

    @property
    def is_training(self) -> bool:
        """Whether cells are trained."""
        return self.accuracy and self.experiment.plan is not None

    @property
    def device_name(self) -> str:
        """The phone that latency is predicted for."""
        return self.device or self.experiment.device
