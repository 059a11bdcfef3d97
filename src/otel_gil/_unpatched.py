"""Functions of the standard library as they were before gevent or eventlet replaced them.

The probe must be a real thread in a real sleep: a green one would measure the event loop, not the GIL.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def original(module: str, name: str) -> Any:
    """The function `name` of the standard library's `module`, unpatched."""
    if gevent := sys.modules.get("gevent.monkey"):
        return gevent.get_original(module, name)
    if eventlet := sys.modules.get("eventlet.patcher"):
        return getattr(eventlet.original(module), name)
    return getattr(importlib.import_module(module), name)
