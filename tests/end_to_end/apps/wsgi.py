"""A WSGI application that holds the GIL while it is loaded, and for a second when /hold is asked for.

Its answers are the worker's process id.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

workload = Workload()
workload.hold(0.5)


def application(
    environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answer a request."""
    if environ["PATH_INFO"] == "/hold":
        workload.hold(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
