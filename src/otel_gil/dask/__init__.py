"""GIL telemetry for Dask clusters: right numbers in Dask's own dashboard and metrics, and beside them.

As a preload of schedulers, workers and nannies:

.. code:: console

    $ dask scheduler --preload otel_gil.dask
    $ dask worker --preload otel_gil.dask tcp://scheduler:8786

or from a client, for a cluster that is running:

.. code:: python

    from otel_gil.dask import GilPlugin

    client.register_plugin(GilPlugin())
    client.unregister_scheduler_plugin("otel_gil")

or by itself under `opentelemetry-instrument`.

Where no OpenTelemetry SDK is configured, the metrics of `otel_gil` are added to those that each server has under
`/metrics` on its own HTTP port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_gil.dask._instrumentor import DaskInstrumentor, claim, release

if TYPE_CHECKING:
    from distributed.core import Server

    from otel_gil.dask._plugin import GilPlugin

__all__ = ["DaskInstrumentor", "GilPlugin", "dask_setup", "dask_teardown"]


def dask_setup(server: Server) -> None:
    """Measure in a server's process. Called by Dask, for a preload."""
    claim(f"preload of {server.id}")


def dask_teardown(server: Server) -> None:
    """Measure for that server no more."""
    release(f"preload of {server.id}", server)


def __getattr__(name: str) -> object:
    if name != "GilPlugin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imports distributed, which the instrumentor, whose package this is, waits for.
    from otel_gil.dask._plugin import GilPlugin

    return GilPlugin
