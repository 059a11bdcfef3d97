"""A short slice, so that the kernel runs a sampler when it wakes.

A thread that wakes on a core that another one computes on waits until that one's slice is over, 3 ms or so, unless it
makes a system call before, as it does when it hands over the GIL. So samples were late, and came when the GIL had just
been given up. From Linux 6.12 on a thread that asks for a shorter slice than the other one's goes first. That takes no
privilege, and gives the thread no more of the core.
"""

from __future__ import annotations

import platform
import struct
import sys

try:
    import ctypes
except ImportError:  # CPython was built without libffi
    ctypes = None  # type: ignore[assignment]

NANOSECONDS = 100_000
"""The shortest that there is."""

_CALLS = {
    "x86_64": (315, 314),
    "aarch64": (275, 274),
    "riscv64": (275, 274),
    "ppc64le": (356, 355),
    "s390x": (346, 345),
}
"""The numbers of `sched_getattr` and `sched_setattr`, for which glibc has functions since 2.41 only."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
_RUNTIME = 5

_FAIR = (0, 3)  # SCHED_OTHER and SCHED_BATCH: those in which the runtime is that of a slice


def shorten() -> bool:
    """Shorten the slice of the thread that calls; whether the kernel took it, as those before 6.12 do for nothing."""
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" and sys.maxsize > 1 << 32 else None
    if not calls or ctypes is None:
        return False
    get, put = calls
    syscall = ctypes.CDLL(None).syscall
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if syscall(get, 0, buffer, _ATTRIBUTES.size, 0):
        return False
    attributes = list(_ATTRIBUTES.unpack(buffer))
    if attributes[1] not in _FAIR:
        return False
    attributes[_RUNTIME] = NANOSECONDS
    return not syscall(put, 0, _ATTRIBUTES.pack(*attributes), 0)
