"""Files of records: those of this user that there are, which of their processes live, and reading one."""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from otel_gil._records.record import HEAD, MAGIC, SIZE, STATE, STATE_SIZE, STATES, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = "otel-gil-{}"
_ATTEMPTS = 3
_LOCK = struct.Struct("hhqqi4x")
"""`struct flock` of 64-bit Linux."""

_MOST = 10_000
"""Files that are looked at."""


class Head(NamedTuple):
    """Whose record it is.

    Attributes:
        pid, parent: as the process sees them, which in a container is not as the machine does.
        started: when the record was made, in seconds since 1970.
        interval: mean seconds between two looks.
        window: seconds that the contention is taken over.
        command: the program and its arguments.
        paths: its `sys.path`.
    """

    pid: int
    parent: int
    started: float
    interval: float
    window: float
    command: str
    paths: tuple[str, ...]


def parents() -> list[str]:
    """Where the folder of the records is, the first that is fit for it: in memory, or else that of temporary files."""
    return ["/dev/shm", os.environ.get("TMPDIR") or "/tmp"]  # noqa: S108 - the folder in it is checked


class RecordFile:
    """An open record of a process.

    Args:
        path: the file.

    Raises:
        OSError: it can't be read, or is no record that can be: of another version, or cut off.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check_owner(os.fstat(self._fd), path)
            self.head = self._head()
        except BaseException:
            os.close(self._fd)
            raise

    def paths(self) -> tuple[str, ...]:
        """The `sys.path` of its process."""
        return self.head.paths

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def alive(self) -> bool:
        """Whether its process lives: that has the file's lock.

        Not for the record of this process itself, whose lock would be lost when the file is closed.
        """
        import fcntl

        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = _LOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
        return bool(found[0] != fcntl.F_UNLCK)

    def state(self) -> bytes:
        """The newest state that is whole.

        Raises:
            OSError: there is none.
        """
        for _ in range(_ATTEMPTS):
            both = (self.read(STATES + i * STATE_SIZE, STATE_SIZE) for i in range(2))
            if whole := [state for state in both if _is_whole(state)]:
                return max(whole, key=lambda state: int(STATE.unpack_from(state)[2]))
        raise OSError(f"{self.path} has no state that is whole")

    def read(self, offset: int, size: int) -> bytes:
        """A part of the record.

        Raises:
            OSError: the file ends before.
        """
        found = os.pread(self._fd, size, offset)
        if len(found) != size:
            raise OSError(f"{self.path} is cut off")
        return found

    def _head(self) -> Head:
        magic, version, size, pid, parent, started, interval, window, _, _, command, paths = HEAD.unpack(
            self.read(0, HEAD.size)
        )
        if magic != MAGIC:
            raise OSError(f"{self.path} is no record")
        if (version, size) != (VERSION, SIZE):
            raise OSError(f"{self.path} is of version {version} of the record, this otel-gil knows version {VERSION}")
        return Head(pid, parent, started, interval, window, _text(command), tuple(_text(paths).split("\n")))


def records() -> Iterator[RecordFile]:
    """The records of this user whose processes live, but for the one of this process. The caller closes them."""
    for path in _paths():
        with suppress(OSError):
            record = RecordFile(path)
            if record.alive:
                yield record
            else:
                record.close()


def _paths() -> Iterator[str]:
    from otel_gil._samplers import observer

    ours = observer.record_path()
    for parent in parents():
        folder = Path(parent, _FOLDER.format(os.geteuid()))
        with suppress(OSError):
            _check_owner(folder.lstat(), str(folder))
            with os.scandir(folder) as found:
                for entry, _ in zip(found, range(_MOST), strict=False):
                    if entry.path != ours and entry.is_file(follow_symlinks=False):
                        yield entry.path


def _check_owner(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is not of this user alone")


def _is_whole(state: bytes) -> bool:
    from binascii import crc32  # which the application may do without

    checksum, length, *_ = STATE.unpack_from(state)
    return bool(STATE.size <= length <= len(state) and checksum == crc32(state[4:length]))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")
