"""What a training tells of itself: rows of CSV files, TensorBoard scalars, and a `Progress` for a bar."""

import csv
import io
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mvig_nas.errors import StorageError
from mvig_nas.files import append, require_regular, save

FILE, VALIDATION = "log.csv", "validation.csv"
BOARD = "tensorboard"
_DIGITS = 12  # of a step's number


@dataclass(frozen=True)
class Progress:
    """State of a training after a step.

    `epoch` of `epochs` is how far the training is, with a fraction; `images_per_second` counts images of this run, over
    all processes; `waiting` is the share of its time spent waiting for images; `device` is the kind that trains, as
    torch names it. A `message`, of a rollback, a validation or a
    stop, comes by itself: the figures beside it say nothing.
    """

    step: int
    steps: int
    epoch: float
    epochs: int
    loss: float
    learning_rate: float
    images_per_second: float
    waiting: float
    device: str
    message: str | None = None

    @property
    def counted(self) -> str:
        """What a bar counts: the epoch that the last step is of."""
        return f"epoch {min(max(math.ceil(self.epoch), 1), self.epochs)}/{self.epochs}"

    @property
    def pace(self) -> str:
        """What a bar tells besides."""
        return f"{self.images_per_second:.0f} images/s on {self.device}, loss {self.loss:.3f}"


class Log:
    """Appends rows to `log.csv` and `validation.csv`, and scalars to a TensorBoard file of its own in `tensorboard/`.

    Rows past the step that a run goes on from are removed: they come again.

    Raises:
        MvigNasError: the folder cannot be written, or the disk is full; so do all methods.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # This is what tensorboardX's SummaryWriter wraps, which writes in a thread and waits for ever where that has
        # met a full disk; torch's SummaryWriter needs the package tensorboard.
        from tensorboardX.event_file_writer import EventsWriter

        self._folder = folder
        self._columns: dict[str, list[str]] = {}
        self._last: dict[str, int] = {}  # step in each file's last row
        with _writable(folder):
            for path in (folder / FILE, folder / VALIDATION):
                if path.exists():
                    require_regular(path)
            (folder / BOARD).mkdir(exist_ok=True)
            # The time in the name is in whole seconds, and a second run may begin within the same.
            self._board = EventsWriter(str(folder / BOARD / "events"), f".{time.time_ns()}")
        self.go_back(step)

    def go_back(self, step: int) -> None:
        """Remove the rows after this step, which come again."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._columns, self._last = {}, {}
        for path in (self._folder / name for name in (FILE, VALIDATION)):
            if not path.exists():
                continue
            # the state alone decides how a training goes on, so that a damaged row costs no more than itself
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                kept = _rows_before(file, step)
            if kept:
                self._columns[path.name], self._last[path.name] = list(kept[0]), int(kept[-1]["step"])
                save(path, _csv(list(kept[0]), kept, header=True))
            else:
                path.unlink()
        # A session's start makes readers drop what earlier ones wrote from this step on.
        start = Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        with _writable(self._folder):
            self._board.write_event(start)
            self._board.flush()

    def write(self, step: int, values: Mapping[str, float], name: str = FILE) -> None:
        """A row of the file of this name, unless it has that step already; its first row names the columns."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        if step <= self._last.get(name, -1):
            return
        self._last[name] = step
        row = {"step": step, **values}
        is_first = name not in self._columns
        columns = self._columns.setdefault(name, list(row))
        with _writable(self._folder / name):
            append(self._folder / name, _csv(columns, [row], header=is_first), is_synced=False)
            for title, value in values.items():
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar(title, value)))
            self._board.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        with _writable(self._folder):
            self._board.close()


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} must be writable, got {error.strerror!r}; take another place or make room."
        ) from error


def _rows_before(file: TextIO, step: int) -> list[dict[str, Any]]:
    rows = []
    with suppress(csv.Error):
        for row in csv.DictReader(file):
            number = str(row.get("step", ""))
            # A row that a kill cut short has no number there, or misses its last values.
            is_whole = None not in row.values() and number.isascii() and number.isdecimal() and len(number) < _DIGITS
            if is_whole and int(number) <= step:
                rows.append(row)
    return rows


def _csv(columns: list[str], rows: list[Any], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
