"""A second interpreter in this process, with a GIL of its own (CPython 3.13 and later)."""

from __future__ import annotations

import ctypes
import logging
import marshal
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger(__name__)

_made: list[int] = []
"""By which processes, this one and its ancestors, each interpreter was made."""

_creating = original("_thread", "allocate_lock")()


class _Frozen(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("code", ctypes.c_char_p),
        ("size", ctypes.c_int),
        ("is_package", ctypes.c_int),
    )


def run(module: str, function: str, *arguments: Any) -> None:
    """Run a function of a module of this package in a new interpreter, which ends with it.

    Blocks until it has returned, without the GIL of the interpreter that calls.

    Args:
        module: its name; it must get by without what needs `otel_gil` itself.
        function: its name.
        arguments: what `marshal` can write.

    Raises:
        RuntimeError: the interpreter can't be made, or the function has raised.
    """
    import _interpreters

    folder = Path(__file__).parent
    code = (
        "import marshal, sys\n"
        # The packages without their __init__, which import extension modules that only one interpreter can have.
        "package = sys.modules['otel_gil'] = type(sys)('otel_gil')\n"
        f"package.__path__ = {[str(folder)]!r}\n"
        "package = sys.modules['otel_gil._samplers'] = type(sys)('otel_gil._samplers')\n"
        f"package.__path__ = {[str(folder / '_samplers')]!r}\n"
        "from otel_gil._observer import light\n"
        "sys.modules['typing'] = light\n"
        f"from {module} import {function}\n"
        f"{function}(*marshal.loads({marshal.dumps(arguments)!r}))\n"
    )
    try:
        with _creating, _without_site():
            interpreter = _interpreters.create()
        _made.append(os.getpid())
        try:
            failure = _interpreters.exec(interpreter, code)
        finally:
            _interpreters.destroy(interpreter)
    except _interpreters.InterpreterError as error:
        raise RuntimeError(str(error)) from None
    if failure is not None:
        # CPython leaves out the traceback where it could not be made, as without a file to spare.
        _logger.debug("%s", getattr(failure, "errdisplay", failure.formatted))
        raise RuntimeError(failure.formatted)


def made() -> int:
    """How many interpreters this process has made, and one for each of its ancestors that has.

    What was lost in those that have ended is memory that a child shares with its parent.
    """
    here = os.getpid()
    return _made.count(here) + len(set(_made) - {here})


@contextmanager
def _without_site() -> Iterator[None]:
    """Let a new interpreter import an empty `site`.

    The real one would run what is meant to run once in a process: .pth files, and `sitecustomize`, with which
    `opentelemetry-instrument` would start a second SDK.
    """
    empty = marshal.dumps(compile("", "<site>", "exec"))
    modules = (_Frozen * 2)(_Frozen(b"site", empty, len(empty), 0), _Frozen())
    frozen = ctypes.c_void_p.in_dll(ctypes.pythonapi, "PyImport_FrozenModules")
    before = frozen.value
    frozen.value = ctypes.addressof(modules)
    try:
        yield
    finally:
        frozen.value = before


def runtime() -> int:
    """The address of `_PyRuntime`.

    Raises:
        ValueError: this interpreter does not show it.
    """
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
