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

_RARENESS = 1000
"""Times that a look takes, between two, at least: with 500 threads it takes 30 ms."""

_warned: set[int] = set()
"""The processes that have: this one, or ancestors of it."""


def running_python(parent: int) -> list[int]:
    """The child processes that run Python, but for the helpers of `multiprocessing`; none where /proc does not tell."""
    with suppress(OSError):
        return sorted(_running_python(parent, (_PROC / str(parent) / "exe").readlink()))
    return []


class ChildrenWatch:
    """Warns once where a process serves metrics, and has children that run Python, whose metrics nobody can scrape.

    Args:
        provider: gets the metrics.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = ref(provider)
        self._due = 0.0 if sys.platform == "linux" else math.inf

    def look(self) -> None:
        """Look whether there are any, unless that was done lately. To be called at each collection."""
        now = _monotonic()
        if now < self._due or os.getpid() in _warned:
            return
        try:
            if _is_scraped(self._provider()) and _has_children():
                self._look()
            self._due = now + max(_PERIOD, _RARENESS * (_monotonic() - now))
        except Exception:
            self._due = math.inf
            _logger.debug("Child processes can't be looked for", exc_info=True)

    def _look(self) -> None:
        ours = os.getpid()
        inherited = _exporter(ours) | {(name, os.environ.get(name, "")) for name in _OWN_EXPORTER}
        served = _dask_workers()
        workers = [pid for pid in running_python(ours) if pid not in served and not _exporter(pid) - inherited]
        if workers:
            _warned.add(ours)
            _logger.warning(
                "The GIL metrics that this process (pid %d) serves are of this process only. Nobody can scrape those "
                "of its child processes that run Python (pid %s). Have each serve its own, on a port of its own, as in "
                "examples/flask_gunicorn of otel-gil, or send them: pip install opentelemetry-exporter-otlp, and set "
                "OTEL_METRICS_EXPORTER=otlp",
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
            yield from map(int, (task / "children").read_bytes().split())


def _age(process: Path) -> float:
    """Seconds since a process has started."""
    fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _exporter(pid: int) -> set[tuple[str, str]]:
    """The variables by which a process was told to export when it started; none where they are not known."""
    try:
        variables = (_PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return set()
    pairs = (variable.partition("=") for variable in variables)
    return {(name, value) for name, _, value in pairs if name in _OWN_EXPORTER}


def _has_children() -> bool:
    """Whether this process has any child. The application's are left for it to wait for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _is_scraped(provider: Any) -> bool:
    """Whether somebody collects from this provider, and it does not send as well, which workers do by themselves."""
    readers = _readers(provider) or _readers(get_meter_provider())
    classes = {base for reader in readers for base in type(reader).__mro__}
    sends = any(base.__name__ == "PeriodicExportingMetricReader" for base in classes)
    return not sends and any(base.__module__.startswith("opentelemetry.exporter.prometheus") for base in classes)


def _readers(provider: Any) -> tuple[Any, ...]:
    # The SDK does not tell by a public name: by the one in newer versions, by the other in older ones.
    configuration = getattr(provider, "_sdk_config", None)
    return (*getattr(provider, "_metric_readers", ()), *getattr(configuration, "metric_readers", ()))


def _dask_workers() -> set[int]:
    """The children that are Dask's workers: those serve their metrics themselves."""
    nannies = getattr(getattr(sys.modules.get("distributed.nanny"), "Nanny", None), "_instances", ())
    return {nanny.pid for nanny in list(nannies)}
