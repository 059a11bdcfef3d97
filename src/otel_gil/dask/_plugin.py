"""What measures in a cluster that is running: a plugin of its scheduler."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import NannyPlugin, SchedulerPlugin, WorkerPlugin
from distributed.protocol.pickle import dumps
from tornado.ioloop import PeriodicCallback

from otel_gil.dask._instrumentor import claim, release

if TYPE_CHECKING:
    from distributed import Nanny, Scheduler, Worker

_logger = logging.getLogger(__name__)

_NAME = "otel_gil"
_LOOK = 500  # milliseconds between two looks whether the plugin is still there


class GilPlugin(SchedulerPlugin):
    """Measures on the scheduler, and on every worker and nanny that there is or will be.

    All of them must have otel-gil installed. `client.unregister_scheduler_plugin("otel_gil")` takes it from them all.
    """

    name = _NAME
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Begin everywhere.

        Raises:
            Exception: it can't be loaded on a worker; it is registered nowhere then.
        """
        self._scheduler = scheduler
        for name, plugin in scheduler.plugins.items():
            if isinstance(plugin, GilPlugin) and plugin is not self:
                _logger.warning("otel_gil.dask.GilPlugin is registered already, as %r: another does nothing", name)
                return
        if watch := scheduler.periodic_callbacks.pop(_NAME, None):
            watch.stop()  # of one that has been removed just now
        claim(f"plugin of {scheduler.id}")
        try:
            await scheduler.register_nanny_plugin(None, dumps(_OnNanny()), name=_NAME, idempotent=True)
            await scheduler.register_worker_plugin(None, dumps(_OnWorker()), name=_NAME, idempotent=True)
        except Exception:  # else no worker could start any more
            await self._end()
            raise
        # Dask tells a scheduler plugin of the scheduler's end, but not of its own removal.
        watch = scheduler.periodic_callbacks[_NAME] = PeriodicCallback(self._look, _LOOK)
        watch.start()

    async def close(self) -> None:
        """Measure on the scheduler no more: it closes."""
        release(f"plugin of {self._scheduler.id}", self._scheduler)

    async def _look(self) -> None:
        if self not in self._scheduler.plugins.values():
            self._scheduler.periodic_callbacks.pop(_NAME).stop()
            await self._end()

    async def _end(self) -> None:
        release(f"plugin of {self._scheduler.id}")
        if _NAME in self._scheduler.worker_plugins:
            await self._scheduler.unregister_worker_plugin(None, _NAME)
        if _NAME in self._scheduler.nanny_plugins:
            await self._scheduler.unregister_nanny_plugin(None, _NAME)


class _OnWorker(WorkerPlugin):
    def setup(self, worker: Worker) -> None:
        claim(f"plugin of {worker.id}")

    def teardown(self, worker: Worker) -> None:
        release(f"plugin of {worker.id}", worker)


class _OnNanny(NannyPlugin):
    def setup(self, nanny: Nanny) -> None:
        claim(f"plugin of {nanny.id}")

    def teardown(self, nanny: Nanny) -> None:
        release(f"plugin of {nanny.id}", nanny)
