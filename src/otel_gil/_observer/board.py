"""Memory that both interpreters see: the observer writes what it knows, and anybody reads it without waiting."""

from __future__ import annotations

import mmap
import sys
from binascii import crc32
from typing import TYPE_CHECKING

from otel_gil._snapshot import Snapshot

if TYPE_CHECKING:
    from typing import Any

_SIZE = 1 << 17
_STARTS = (0, 16, _SIZE // 2)
"""Where nothing, the one and the other snapshot begin: its size, a checksum, and itself."""
_HEAD = 16
_LARGEST = _SIZE // 2 - 2 * _HEAD
"""Bytes that there is room for in each place."""


class Board:
    """One snapshot, in two places in turn, so that a reader finds one that is complete.

    Args:
        fd: of a file that is at least `SIZE` bytes.
    """

    SIZE = _SIZE

    def __init__(self, fd: int) -> None:
        # Without a duplicate of the file: if the application closes that, another file of its gets the number.
        untracked: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        self._memory = mmap.mmap(fd, _SIZE, **untracked)
        self._next = 0

    def write(self, snapshot: Snapshot | str) -> None:
        """Publish a snapshot, or a state that there is none in.

        Where there is no room for all of a snapshot, who held the GIL is left out; of a state, its end.
        """
        if isinstance(snapshot, str):
            self._put(b"s" + snapshot.encode()[: _LARGEST - 1])
            return
        data = snapshot.dumps()
        if len(data) >= _LARGEST:
            data = snapshot._replace(stall=None, held=()).dumps()
        self._put(b"r" + data)

    def read(self) -> Snapshot | str | None:
        """What was published last; None while there is nothing."""
        for _ in range(100):
            last = self._memory[0]
            if not last:
                return None
            start = _STARTS[last]
            size = int.from_bytes(self._memory[start : start + 8], "little")
            found = self._memory[start + _HEAD : start + _HEAD + size]
            if found and crc32(found) == int.from_bytes(self._memory[start + 8 : start + 16], "little"):
                return found[1:].decode(errors="replace") if found[:1] == b"s" else Snapshot.loads(found[1:])
        return None

    def _put(self, data: bytes) -> None:
        self._next = 1 if self._next == 2 else 2  # noqa: PLR2004
        start = _STARTS[self._next]
        self._memory[start : start + 8] = len(data).to_bytes(8, "little")
        self._memory[start + 8 : start + 16] = crc32(data).to_bytes(8, "little")
        self._memory[start + _HEAD : start + _HEAD + len(data)] = data
        self._memory[0] = self._next
