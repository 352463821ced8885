"""Joining a Ray cluster, or starting one on this machine."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from mvig_nas.errors import MvigNasError

_LETTERS = 300


@contextmanager
def connected(address: str | None, *, cpus: int | None = None, timeout_s: float = 10) -> Iterator[None]:
    """A connection to Ray, which ends with the block; one that this process has already is used, and left as it is.

    Args:
        address: None to start Ray on this machine; `auto` or `host:port` to join a cluster that this machine is in.
        cpus: CPUs of a Ray that is started here; None for all of the machine.
        timeout_s: seconds in which the head of a cluster must answer.

    Raises:
        MvigNasError: Ray does not start, or the head does not answer.
    """
    if ray.is_initialized():
        yield
        return
    if address is None:
        start(cpus)
    else:
        join(address, timeout_s)
    try:
        yield
    finally:
        ray.shutdown()


def start(cpus: int | None) -> None:
    """Start Ray on this machine, for this process alone.

    It listens on all of the machine's addresses, and refuses clients without the user's token, as Ray 2.60 does unless
    `RAY_AUTH_MODE` says otherwise.

    Raises:
        MvigNasError: it does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # of this thread, not of another: its end would be that of the processes it starts
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, RuntimeError, TimeoutError, OSError, ValueError) as error:
        raise MvigNasError(f"Ray must start on this machine, but: {line(error)}; see /tmp/ray.") from error


def join(address: str, timeout_s: float) -> None:
    """Join a cluster that this machine is in; ray.init alone would try for minutes.

    Raises:
        MvigNasError: no head answers at the address, or it is no address of a cluster.
    """
    if "://" in address:
        raise MvigNasError(
            f"the program must run on a machine of the cluster, which `auto` or host:port is the address of, got "
            f"{address}; start it there."
        )
    until = time.monotonic() + timeout_s
    unreachable = MvigNasError(
        f"the head of a Ray cluster must answer at {address} within {timeout_s:g} s, but none did; check `ray status`, "
        "and that this machine is one of the cluster's."
    )
    if address != "auto":
        try:
            knock(address, timeout_s)
        except (OSError, ValueError) as error:
            raise unreachable from error
    failures: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if thread.is_alive() or isinstance(next(iter(failures), None), ConnectionError):
        raise unreachable
    if failures:
        raise MvigNasError(f"the Ray cluster at {address} must be joined, but: {line(failures[0])}") from failures[0]


def knock(address: str, timeout_s: float) -> None:
    """Whether something answers at `host:port`.

    Raises:
        OSError: nothing does.
        ValueError: the address has no port.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


def nodes() -> list[dict[str, float]]:
    """Resources of the nodes that are there now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def room(need: dict[str, float]) -> int:
    """How many workers of this need (such as `{"CPU": 1}`) the nodes of now hold at once, at least one."""
    each = [(name, amount) for name, amount in need.items() if amount]
    return max(1, sum(min(int(node.get(name, 0) / amount) for name, amount in each) for node in nodes()))


def line(text: object) -> str:
    """Text as one line of at most 300 letters."""
    return " ".join(str(text).split())[:_LETTERS]
