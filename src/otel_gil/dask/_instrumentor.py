"""What Dask's servers have in common: one sampler a process, for as long as somebody has a claim to it."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter, get_meter_provider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from wrapt import register_post_import_hook

from otel_gil import _instrumentor
from otel_gil._instrumentor import GilInstrumentor
from otel_gil.dask import _system_monitor
from otel_gil.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_logger = logging.getLogger(__name__)

_lock = Lock()
_claims: set[str] = set()
_to_undo = ExitStack()
_described: WeakSet[MeterProvider] = WeakSet()

_SERVERS = {
    "scheduler": ("distributed.scheduler", "Scheduler"),
    "worker": ("distributed.worker", "Worker"),
    "nanny": ("distributed.nanny", "Nanny"),
}

_UP = ("running", "paused", "closing_gracefully")


def claim(who: str) -> None:
    """Measure until whoever has a claim has released it. What goes wrong is logged: Dask goes on."""
    with _lock:
        if not _claims:
            try:
                _start()
            except Exception:
                _logger.exception("The GIL is not measured for Dask, whose own metrics are what they were")
                _to_undo.close()
        _claims.add(who)


def release(who: str, server: Any = None) -> None:
    """Give a claim back, if there is one. With the last, what was begun for Dask ends.

    Args:
        who: has the claim.
        server: for which it was. If it is closing, gilknocker is not started again for it: the process may be about to
            end, and a gilknocker that has just been stopped can abort it then (exit code 134).
    """
    if server is not None and server.status.name not in _UP:
        server.monitor.close()
    with _lock:
        _claims.discard(who)
        if not _claims:
            _to_undo.close()


def _start() -> None:
    if not GilInstrumentor().is_instrumented_by_opentelemetry:
        provider = _provider()
        if provider:
            _to_undo.callback(provider.shutdown)
        GilInstrumentor().instrument(meter_provider=provider)
        _to_undo.callback(GilInstrumentor().uninstrument)
    if found := _instrumentor.measuring():
        provider, _ = found
        _describe(provider)
        _to_undo.callback(_system_monitor.follow(_instrumentor.read))


def _provider() -> Any:
    """A provider for prometheus_client's default registry, which Dask serves; None where there is a provider already.

    It is not made the global one, which can be set only once: the application still may.
    """
    if not isinstance(get_meter_provider(), _ProxyMeterProvider):
        return None
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
    except ImportError as error:
        _logger.warning(
            "cpython_gil_* is not among Dask's Prometheus metrics: %s (pip install 'otel-gil[dask]'); "
            "Dask's own GIL metrics are right all the same",
            error,
        )
        return None
    # The resource would be target_info: one more metric that can clash with the application's, and knows no servers.
    return MeterProvider([PrometheusMetricReader(disable_target_info=True)])


def _describe(provider: MeterProvider) -> None:
    """Export which Dask servers this process is.

    A resource can't: it has one value for a process, fixed before the first server has an address, and a process can
    have several servers, which come and go. As attributes of the measurements they would make new series of all of
    them with every new worker. So it is a series of its own for each server, to be joined where it is wanted.
    """
    if provider not in _described:
        _described.add(provider)
        get_meter("otel_gil", __version__, provider).create_observable_gauge(
            "dask.server.info", [_servers], description="1 for each Dask server in this process."
        )


def _servers(_: CallbackOptions) -> Iterable[Observation]:
    if not _claims:
        return
    for kind, (module, class_name) in _SERVERS.items():
        for server in _instances(getattr(sys.modules.get(module), class_name, None)):
            if server.status.name in _UP:
                name = getattr(server, "name", None)  # a scheduler has none, a nanny sometimes
                yield Observation(
                    1,
                    {
                        "dask.server.type": kind,
                        "dask.server.name": "" if name is None else str(name),
                        "dask.server.address": server.address,
                    },
                )


def _instances(server: Any) -> list[Any]:
    while True:
        # Another thread can make one in the meantime.
        with suppress(RuntimeError):
            return list(getattr(server, "_instances", ()))


class DaskInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Has Dask's own GIL metrics take their values from `GilInstrumentor`, from when distributed is imported.

    Where `GilInstrumentor` does not measure then, Dask is left as it is.
    """

    _waiting = False

    def instrumentation_dependencies(self) -> Collection[str]:
        """The distributed whose SystemMonitor is known."""
        return (f"distributed >= {_system_monitor.OLDEST}",)

    def _instrument(self, **_: Any) -> None:
        self._waiting = True
        register_post_import_hook(self._imported, "distributed.system_monitor")

    def _uninstrument(self, **_: Any) -> None:
        self._waiting = False
        release("instrumentor")

    def _imported(self, _: object) -> None:
        if self._waiting and GilInstrumentor().is_instrumented_by_opentelemetry:
            claim("instrumentor")
