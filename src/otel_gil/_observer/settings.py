"""What the observer is told, and how it begins."""

from __future__ import annotations

from typing import NamedTuple

READY = "ready"
PROVEN = "proven"
"""States that the board has before there is a snapshot. Any other is the reason why there will be none."""

MESSAGE = 1 << 17
"""Bytes of the longest message between the observer and the sampler."""


class Settings(NamedTuple):
    """What the observer is told.

    Attributes:
        runtime, version, code_type, waiters: as of `Interpreter`.
        proof: native id of a thread that runs a function, and the names of that and of its caller; None without one.
        paths: `sys.path`.
        names: of the threads there are, by native id.
        interval: mean seconds between two looks.
        window: seconds that the contention is taken over.
        holders: `none`, `thread` or `function`.
        threshold: seconds of a hold that is a stall.
        stderr: whether a stall is written to standard error at once.
        address: host and port to serve on; None for none.
        since: a snapshot to go on from, as bytes; None where there is none.
    """

    runtime: int
    version: int
    code_type: int
    waiters: int | None
    proof: tuple[int, str, str] | None
    paths: tuple[str, ...]
    names: dict[int, str]
    interval: float
    window: float
    holders: str
    threshold: float
    stderr: bool
    address: tuple[str, int] | None
    since: bytes | None
