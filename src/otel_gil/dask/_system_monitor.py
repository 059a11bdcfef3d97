"""Dask's SystemMonitor, with the GIL's contention from the sampler of this process.

A monitor reads its gilknocker whenever it is updated, and adds the contention, weighed by the time since the update
before, to `cumulative_gil_contention`. While it is followed here it has a stand-in for gilknocker, and
`cumulative_gil_contention` is a property of the class: the sampler's blocked seconds, whatever is added. Its `update`
stays Dask's own, because the servers' periodic callbacks keep the method that there was when they were made.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import logging
from collections import deque
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from otel_gil._snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed.system_monitor import SystemMonitor

_logger = logging.getLogger(__name__)

OLDEST = "2024.3.0"
"""The first distributed whose `cumulative_gil_contention` is meant to be seconds. Before it was a sum of shares."""

_SHORTEST = 0.25
"""Seconds that a monitor's contention is taken over at least: a dozen samples."""

_USED = {
    "__init__": ("monitor_gil_contention", "quantities", "maxlen"),
    "update": ("monitor_gil_contention", "_gilknocker", "contention_metric", "cumulative_gil_contention"),
    "close": ("monitor_gil_contention", "_gilknocker", "stop"),
}
"""By method of SystemMonitor, the names in it that make sure that what is done here has the effect that is meant."""

_GIL_STATE = ("monitor_gil_contention", "_gilknocker", "cumulative_gil_contention", "_last_gil_contention")
"""The attributes of a monitor that have to do with the GIL."""


class _StandIn:
    """What a monitor has in place of gilknocker.

    Its contention is the blocked share of the time since the monitor's last update, as that of gilknocker, which Dask
    resets at every update, is meant to be: Dask shows it beside CPU and network of the same interval, as a series
    (dashboard) and as the latest value (Worker.metrics, the GIL bars), where the gauge's ten seconds would lag behind
    both. Updates in between, one for each scrape, come at any time, and a share of some milliseconds is 0 or 1: they
    repeat the last one.
    """

    def __init__(self, read: Callable[[], Snapshot], replaced: dict[str, Any] | None) -> None:
        self.replaced = replaced
        self.stopped = False
        self._read = read
        self._since = read()
        self._share = self._since.contention

    @property
    def contention_metric(self) -> float:
        now = self._read()
        blocked, free = now.blocked - self._since.blocked, now.free - self._since.free
        if blocked + free >= _SHORTEST:
            self._share = blocked / (blocked + free)
            self._since = now
        return self._share

    @property
    def is_running(self) -> bool:
        """As of gilknocker."""
        return not self.stopped

    def reset_contention_metric(self) -> None:
        """Nothing: what this monitor has read is nobody else's business."""

    def stop(self) -> None:
        self.stopped = True


def unexpected() -> str | None:
    """What is not as it has to be in the SystemMonitor of the distributed that is installed; None where nothing is."""
    try:
        from distributed.system_monitor import SystemMonitor
    except ImportError as error:
        return str(error)
    for method, names in _USED.items():
        code = getattr(inspect.unwrap(getattr(SystemMonitor, method, None)), "__code__", None)  # type: ignore[arg-type]
        used = (*code.co_names, *code.co_varnames) if code else ()
        if missing := [name for name in names if name not in used]:
            return f"SystemMonitor.{method} was expected to use {', '.join(missing)}"
    return None


def follow(read: Callable[[], Snapshot | None]) -> Callable[[], None]:
    """Have every SystemMonitor of this process, present and future, take the GIL's contention from a sampler.

    A monitor that is not to monitor the GIL, by its argument or by Dask's configuration, still does not. Where
    SystemMonitor is not as expected there is a warning, and Dask's metrics are what they were.

    Args:
        read: reads the sampler.

    Returns:
        a function that makes everything as it was.
    """
    if reason := unexpected():
        _logger.warning(
            "Dask's own GIL metrics are left as they are: distributed %s is not as expected of %s or later (%s)",
            version("distributed"),
            OLDEST,
            reason,
        )
        return lambda: None

    return _Following(read).undo


class _Following:
    """The monitors that read a sampler, from now to `undo`."""

    def __init__(self, read: Callable[[], Snapshot | None]) -> None:
        from distributed.system_monitor import SystemMonitor

        self._class = cast("Any", SystemMonitor)
        self._read = read
        self._latest = Snapshot(0.0, 0.0, 0.0)
        self._stand_ins: WeakKeyDictionary[SystemMonitor, _StandIn] = WeakKeyDictionary()
        self._original = SystemMonitor.__init__
        self._class.__init__ = self._init()
        self._class.cumulative_gil_contention = property(lambda _: self._read_on().blocked, lambda _, __: None)
        try:
            self._take_over_those_present()
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Leave every monitor as it would be without us."""
        self._class.__init__ = self._original
        del self._class.cumulative_gil_contention
        for monitor, stand_in in list(self._stand_ins.items()):
            self._give_back(monitor, stand_in)

    def _read_on(self) -> Snapshot:
        # A counter must not fall, also if the sampler has been stopped.
        self._latest = self._read() or self._latest
        return self._latest

    def _init(self) -> Callable[..., None]:
        original, signature = self._original, inspect.signature(self._original)

        @wraps(original)
        def init(*args: Any, **kwargs: Any) -> None:
            bound = signature.bind(*args, **kwargs)
            wanted = bound.arguments.get("monitor_gil_contention")
            bound.arguments["monitor_gil_contention"] = False  # so that gilknocker is not started
            original(*bound.args, **bound.kwargs)
            if _enabled() if wanted is None else wanted:
                self._take_over(args[0], None)

        return init

    def _take_over_those_present(self) -> None:
        switched_on_in_vain = _enabled() and importlib.util.find_spec("gilknocker") is None
        for monitor in gc.get_objects():
            # Not isinstance, which asks the objects, and some (proxies) have side effects.
            if not issubclass(type(monitor), self._class) or monitor in self._stand_ins:
                continue
            if monitor.monitor_gil_contention:
                state = _gil_state(monitor)
                self._take_over(monitor, state)
                if state["_gilknocker"].is_running:
                    state["_gilknocker"].stop()
                else:
                    monitor.close()
            elif switched_on_in_vain:
                self._take_over(monitor, _gil_state(monitor))

    def _take_over(self, monitor: SystemMonitor, replaced: dict[str, Any] | None) -> None:
        stand_in = self._stand_ins[monitor] = _StandIn(self._read_on, replaced)
        if "gil_contention" not in monitor.quantities:
            first = deque([stand_in.contention_metric], monitor.maxlen)
            monitor.quantities = {**monitor.quantities, "gil_contention": first}
        vars(monitor).setdefault("cumulative_gil_contention", 0.0)
        vars(monitor).update(_gilknocker=stand_in, monitor_gil_contention=True)

    def _give_back(self, monitor: SystemMonitor, stand_in: _StandIn) -> None:
        state = stand_in.replaced
        if state is None:
            # Made in the meantime: as Dask would have made it. A closed one must not start a gilknocker: one that has
            # been stopped just before the process ends can abort it.
            state = _gil_state(self._class(monitor_gil_contention=not stand_in.stopped))
        for name in _GIL_STATE:
            vars(monitor).pop(name, None)
        vars(monitor).update(state)
        if not monitor.monitor_gil_contention:
            monitor.quantities = {name: v for name, v in monitor.quantities.items() if name != "gil_contention"}
        elif not stand_in.stopped and not state["_gilknocker"].is_running:
            state["_gilknocker"].start()


def _enabled() -> bool:
    import dask.config

    return bool(dask.config.get("distributed.admin.system-monitor.gil.enabled"))


def _gil_state(monitor: SystemMonitor) -> dict[str, Any]:
    return {name: value for name, value in vars(monitor).items() if name in _GIL_STATE}
