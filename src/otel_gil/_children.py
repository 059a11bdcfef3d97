"""Child processes that run Python, as workers do. What a process measures is its own GIL, not theirs (Linux)."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from opentelemetry.metrics import get_meter_provider

from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger(__name__)

_monotonic = original("time", "monotonic")

_PROC = Path("/proc")

_YOUNG = 1.0
"""Seconds from its start in which a child may be about to execute another program."""

_RESOURCE_TRACKER = b"resource_tracker import main"
_FORK_SERVER = b"forkserver import main"
"""In the command lines of the helpers of `multiprocessing`, which have nothing to do but to wait."""

_OWN_EXPORTER = ("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_PROMETHEUS_PORT", "OTEL_EXPORTER_PROMETHEUS_HOST")
"""Variables by which a child is set up to export for itself, where they are not its parent's."""

_PERIOD = 5.0
"""Seconds between two looks, at least."""


def running_python(parent: int) -> list[int]:
    """The child processes that run Python, but for the helpers of `multiprocessing`; none where /proc does not tell."""
    with suppress(OSError):
        return sorted(_running_python(parent, (_PROC / str(parent) / "exe").readlink()))
    return []


class ChildrenWatch:
    """Warns once where a process serves metrics, and has children that run Python and are in no scrape.

    Args:
        provider: gets the metrics.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = ref(provider)
        self._due = 0.0 if sys.platform == "linux" else math.inf

    def look(self) -> None:
        """Look whether there are any, unless that was done lately. To be called at each collection."""
        now = _monotonic()
        if now < self._due:
            return
        self._due = now + _PERIOD
        try:
            if _is_scraped(self._provider()) and _has_children():
                self._look()
        except Exception:
            self._due = math.inf
            _logger.debug("Child processes can't be looked for", exc_info=True)

    def _look(self) -> None:
        ours = os.getpid()
        inherited = _exporter(ours), tuple(os.environ.get(name) for name in _OWN_EXPORTER)
        workers = [
            pid for pid in running_python(ours) if pid not in _dask_workers() and _exporter(pid) in (*inherited, None)
        ]
        if workers:
            self._due = math.inf
            _logger.warning(
                "The GIL metrics that this process (pid %d) serves are its own. It has child processes that run Python "
                "and are in no scrape (pid %s): have each serve its own metrics, on a port of its own, or set "
                "OTEL_METRICS_EXPORTER=otlp, with which each process sends its own",
                ours,
                ", ".join(map(str, workers)),
            )


def _running_python(parent: int, program: Path) -> Iterator[int]:
    for pid in _children(parent):
        with suppress(OSError):
            process = _PROC / str(pid)
            running = (process / "exe").readlink()
            if running != program and not running.name.startswith("python"):
                continue
            command = (process / "cmdline").read_bytes()
            if _FORK_SERVER in command and _FORK_SERVER not in (_PROC / str(parent) / "cmdline").read_bytes():
                yield from _running_python(pid, program)
            elif _RESOURCE_TRACKER not in command and _age(process) >= _YOUNG:
                yield pid


def _children(parent: int) -> Iterator[int]:
    """The children, which the kernel keeps by the thread that forked them."""
    for task in (_PROC / str(parent) / "task").iterdir():
        with suppress(OSError):  # it has ended
            yield from map(int, (task / "children").read_text().split())


def _age(process: Path) -> float:
    """Seconds since a process has started."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _exporter(pid: int) -> tuple[str | None, ...] | None:
    """How a process was told to export when it started; None where that is not known."""
    try:
        variables = (_PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    values = dict(variable.split("=", 1) for variable in variables if "=" in variable)
    return tuple(values.get(name) for name in _OWN_EXPORTER)


def _has_children() -> bool:
    """Whether this process has any child. The application's are left for it to wait for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _is_scraped(provider: Any) -> bool:
    """Whether somebody collects from this provider, where others send. The SDK does not tell by a public name."""
    readers = _readers(provider) or _readers(get_meter_provider())
    return any(
        base.__module__.startswith("opentelemetry.exporter.prometheus")
        for reader in readers
        for base in type(reader).__mro__
    )


def _readers(provider: Any) -> tuple[Any, ...]:
    # The one since SDK 1.40 or so, the other before.
    configuration = getattr(provider, "_sdk_config", None)
    return (*getattr(provider, "_metric_readers", ()), *getattr(configuration, "metric_readers", ()))


def _dask_workers() -> set[int]:
    """The children that are Dask's workers: those serve their metrics themselves."""
    nannies = getattr(getattr(sys.modules.get("distributed.nanny"), "Nanny", None), "_instances", ())
    return {nanny.pid for nanny in list(nannies)}
