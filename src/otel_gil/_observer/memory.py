"""The memory of this process, read so that a wrong address is an error and not a crash."""

from __future__ import annotations

import posix
import struct

from otel_gil._observer.files import high

_WORD = struct.Struct("=Q")

_HIGHEST = 1 << 56  # beyond are no addresses of any 64-bit Linux


class Memory:
    """Reads through /proc/self/mem, which belongs to this process and to no child of it.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self) -> None:
        file = posix.open("/proc/self/mem", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            self._fd = high(file)
        finally:
            posix.close(file)

    def close(self) -> None:
        """Read no more."""
        posix.close(self._fd)

    def read(self, address: int, size: int) -> bytes:
        """So many bytes from an address.

        Raises:
            OSError: there is no such memory.
        """
        if not 0 < address < _HIGHEST:
            raise OSError(f"no memory at {address:#x}")
        found = posix.pread(self._fd, size, address)
        if len(found) != size:
            raise OSError(f"no memory at {address + len(found):#x}")
        return found

    def word(self, address: int) -> int:
        """The unsigned 64-bit number, or pointer, at an address.

        Raises:
            OSError: there is no such memory.
        """
        number: int = _WORD.unpack(self.read(address, 8))[0]
        return number
