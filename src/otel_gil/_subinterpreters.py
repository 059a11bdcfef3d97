"""Whether this is the main interpreter of the process, the only one that is measured, and that may have our threads."""

from __future__ import annotations


def in_main_interpreter() -> bool:
    """Whether the caller runs in the main interpreter.

    A subinterpreter can't end while a thread runs in it that it does not wait for: CPython aborts the process.
    """
    try:
        from _thread import _is_main_interpreter  # type: ignore[attr-defined]  # CPython 3.12 and later
    except ImportError:
        return _in_main_interpreter_before_3_12()
    return bool(_is_main_interpreter())


def _in_main_interpreter_before_3_12() -> bool:
    try:
        import _xxsubinterpreters  # type: ignore[import-not-found]
    except ImportError:  # a build that can't make one
        return True
    return bool(_xxsubinterpreters.get_current() == _xxsubinterpreters.get_main())
