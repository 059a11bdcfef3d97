"""Files that stay out of an application's way."""

from __future__ import annotations

_HIGH = 512


def high(fd: int) -> int:
    """The same file by a number that is high, and that no child inherits; for a socket as well.

    An application may close all files there are, as daemons do. It gets the lowest numbers for those that it opens
    after that, which must not be numbers that the observer still uses, and closes in the end.

    Raises:
        OSError: there are too many files.
    """
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, _HIGH)
    except OSError:  # there may be no more than so many
        return fcntl(fd, F_DUPFD_CLOEXEC, 3)
