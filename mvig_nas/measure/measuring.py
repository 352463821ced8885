"""A session: what is to be measured, and on what; shared out to one device or several equal ones."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mvig_nas import device_log
from mvig_nas.architecture import Architecture, read_architectures
from mvig_nas.coreml.package import SUFFIX
from mvig_nas.device_log import Device
from mvig_nas.device_log.subject import TIMM
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, holder, make_folder
from mvig_nas.futures import as_completed
from mvig_nas.measure.backend import TORCH_CPU, Backend, BackendOptions, Target
from mvig_nas.measure.coreml_backend import CoreMl, package_target
from mvig_nas.measure.session import Board, MeasureProgress, MeasureSettings, Session, Show, Unit
from mvig_nas.measure.worker import Job, Queue, Worker, on_one_line

_DEFAULTS = MeasureSettings()


def measure(
    targets: Sequence[Target],
    backend: Backend | Sequence[Backend],
    log_path: str | Path,
    settings: MeasureSettings = _DEFAULTS,
    *,
    on_progress: Callable[[MeasureProgress], None] | None = None,
    sleep: Callable[[float], object] | None = None,
) -> Session:
    """Measure networks and append each to the device's log when its rounds are done.

    Targets whose network the log holds already are skipped: run the same call again after a kill. The first target is
    the reference; its latency is in every row's notes, so that sessions can be compared.

    Several devices, which must be of one model and system, take groups of networks from one queue, each watched by the
    reference on itself. Where one fails, the others measure its networks, and `Session.units` says so.

    Args:
        targets: what to measure; a network that stands there twice is measured once.
        backend: the device, or several.
        log_path: a log of this device, made if there is none.
        settings: how often, in which order, with which rests.
        on_progress: called after every visit of a network, before every pause, and when one of several devices fails;
            never by two of them at once.
        sleep: waits for so many seconds; without it a rest ends early when the session does.

    Raises:
        MvigNasError: no targets, no devices or different ones, a log that cannot be read or is of another device, a
            network that the backend cannot run, or all devices failed (one alone: its own error). What was appended
            before stays.
    """
    backends = tuple(backend) if isinstance(backend, Sequence) else (backend,)
    _check_alike(backends)
    unique = list({target.label: target for target in reversed(targets)}.values())[::-1]
    if not unique:
        raise MvigNasError("there must be a network to measure, got none; name a preset, a file or a package.")
    with _only_measuring(Path(log_path)):
        return _measured(unique, backends, Path(log_path), settings, on_progress=on_progress, sleep=sleep)


@contextmanager
def _only_measuring(log: Path) -> Iterator[None]:
    """While this process measures into a log, no other may: each would measure all networks."""
    make_folder(log.parent)
    lock = log.with_name(f".{log.name}.lock")
    try:
        lock.touch()
    except OSError as error:
        raise MvigNasError(f"{log} must be writable, got {error.strerror!r}; take another --log.") from error
    with claim(lock) as is_ours:
        if not is_ours:
            raise MvigNasError(
                f"only one process may measure into {log}, but {holder(lock)} is at it; wait until it has ended, or "
                "take another --log."
            )
        yield


def _measured(
    unique: Sequence[Target],
    backends: Sequence[Backend],
    log_path: Path,
    settings: MeasureSettings,
    *,
    on_progress: Callable[[MeasureProgress], None] | None,
    sleep: Callable[[float], object] | None,
) -> Session:
    done = _in_log(log_path, backends[0].device)
    skipped = tuple(target for target in unique if target.label in done)
    rng = random.Random(settings.seed)
    order = rng.sample(unique, len(unique))
    todo = [target for target in order if target.label not in done]
    if not todo:
        return Session((), skipped)
    for each in backends:
        for target in unique:
            each.check(target)
    size = min(settings.together, -(-len(todo) // len(backends)))  # all devices have something to do
    queue = Queue([tuple(todo[begin : begin + size]) for begin in range(0, len(todo), size)])
    job = Job(unique[0], settings, queue, log_path, sleep or queue.rest)
    board = Board(on_progress, len(todo) * settings.rounds)
    names = _names(backends)
    noted = names if len(names) > 1 else [""]
    workers = [
        Worker(each, name, job, copy.copy(rng), Show(board, name)) for each, name in zip(backends, noted, strict=True)
    ]
    _run(workers, queue)
    _raise_if_all_failed(names, workers)
    units = tuple(
        Unit(name, len(worker.rows), worker.reference_ms, on_one_line(worker.failure) if worker.failure else None)
        for name, worker in zip(names, workers, strict=True)
    )
    rows = sorted((row for worker in workers for row in worker.rows), key=lambda row: row.time)
    warnings = [warning for worker in workers for warning in worker.warnings]
    return Session(tuple(rows), skipped, tuple(warnings + _differing(units, settings)), units)


def targets_of(name: str) -> list[Target]:
    """The networks that a word of the command line names.

    Args:
        name: a preset, a JSON file with an architecture, a `.jsonl` file with many, `timm:NAME`, or a `.mlpackage`.

    Raises:
        MvigNasError: there is no such network or file, or it is damaged.
    """
    if name.startswith(TIMM):
        from mvig_nas.measure.torch_cpu import timm_target

        return [timm_target(name)]
    path = Path(name)
    if path.suffix == SUFFIX:
        return [package_target(path)]
    if path.suffix != ".jsonl":
        return [Target(Architecture.load(name))]
    return [Target(architecture) for architecture in read_architectures(path)]


def open_backends(name: str, udids: Sequence[str], options: BackendOptions) -> list[Backend]:
    """The devices to measure on.

    Args:
        name: `coreml`, or `torch-cpu` for this computer's processor.
        udids: connected iPhones of one model, for `coreml`; this Mac if none.
        options: names, and what networks may use; those of the other backend are passed over.

    Raises:
        MvigNasError: a device is not there or not ready.
    """
    if name == TORCH_CPU:
        from mvig_nas.measure.torch_cpu import TorchCpu

        return [TorchCpu(options.threads or 1, options.name or "host")]
    return [
        CoreMl(
            options.compute_units,
            udid=udid,
            name=options.name,
            chip_name=options.chip,
            team=options.team or "",
        )
        for udid in udids or (None,)
    ]


def _run(workers: Sequence[Worker], queue: Queue) -> None:
    if len(workers) == 1:
        workers[0].work()  # in this thread, where Ctrl-C ends a visit too
        return
    with ThreadPoolExecutor(len(workers)) as pool:  # on leaving, waits for the visits in flight
        try:
            for finished in as_completed([pool.submit(worker.work) for worker in workers]):
                finished.result()
        except BaseException:
            queue.stop()
            raise


def _check_alike(backends: Sequence[Backend]) -> None:
    if not backends:
        raise MvigNasError("there must be a device to measure on, got none; give a backend.")
    for number, other in enumerate(backends[1:], 2):
        for name, theirs, first in other.device.differences(backends[0].device):
            raise MvigNasError(
                f"devices that share a log must be of one model, system and compute units, but number {number} has "
                f"{name} {theirs!r} and number 1 {first!r}; measure them one by one, each into its own log."
            )


def _names(backends: Sequence[Backend]) -> list[str]:
    """What tells each from the others: its unit, else its number, or both."""
    names = [each.unit or str(number) for number, each in enumerate(backends, 1)]
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names, 1)]


def _raise_if_all_failed(names: Sequence[str], workers: Sequence[Worker]) -> None:
    failures = {name: worker.failure for name, worker in zip(names, workers, strict=True) if worker.failure}
    if len(failures) < len(workers):
        return
    last = list(failures.values())[-1]
    if len(failures) == 1:
        raise last
    told = "; ".join(f"{name}: {on_one_line(failure)}" for name, failure in failures.items())
    raise MvigNasError(
        f"a device must be left to measure on, but all {len(failures)} failed ({told}); run the same again when they "
        "are back: measured rows are kept."
    ) from last


def _differing(units: Sequence[Unit], settings: MeasureSettings) -> list[str]:
    """A warning where the devices are not equally fast."""
    ratio = Session((), (), (), tuple(units)).reference_ratio
    if ratio <= 1 + settings.drift:
        return []
    return [
        f"the reference takes {ratio:.2f} times as long on the slowest device as on the fastest; rows of different "
        "`unit` are no closer than that"
    ]


def _in_log(path: Path, device: Device) -> set[str]:
    """Labels of the networks that the log holds; the log must be of this device."""
    if not path.exists():
        return set()
    log = device_log.read(path)
    for other in log.devices:
        for name, ours, theirs in device.differences(other):
            raise MvigNasError(
                f"a log must be of one device, system and compute units, but {path} has {name} {theirs!r} and "
                f"{ours!r} is to be measured; take another --log."
            )
    return set(log.networks)
