"""Holds the GIL, forks, and holds it on in both processes, for another share of the time in the child.

Writes the truth about both, and the moment of the fork, as JSON to files in the working directory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation, get_meter, get_meter_provider

from .workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterable

# CPython's own, as soon as there is any other thread, such as the one that exports metrics.
warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)

exported = threading.Event()


def note_export(_: CallbackOptions) -> Iterable[Observation]:
    """Say that metrics are being collected."""
    exported.set()
    return ()


def await_quiet() -> None:
    """Wait until an export has just been done: what is in the middle of one when it is forked stays locked for ever."""
    exported.clear()
    exported.wait()
    time.sleep(0.2)
    get_meter_provider().force_flush()  # type: ignore[attr-defined]


get_meter("app").create_observable_gauge("app.exports", [note_export])
workload = Workload()
workload.run(2.5, hold=0.1, gap=0.05)
await_quiet()
forked = time.time_ns()
if child := os.fork():
    workload.run(2.5, hold=0.1, gap=0.05)
    _, status = os.waitpid(child, 0)
    name = "parent"
else:
    workload = Workload()
    workload.run(2.5, hold=0.05, gap=0.15)
    status = 0
    name = "child"
truth = {"pid": os.getpid(), "forked": forked, "held": workload.held, "elapsed": workload.elapsed}
Path(name).write_text(json.dumps(truth))
sys.exit(os.waitstatus_to_exitcode(status))
