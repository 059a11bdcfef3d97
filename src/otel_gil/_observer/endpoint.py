"""A tiny HTTP server that its caller's loop drives: it has no thread, and it never blocks."""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from otel_gil._observer.files import high

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_CONNECTIONS = 16
"""At once. The next one takes the place of the oldest: so a crowd of idle clients locks nobody out."""

_LIFETIME = 2.0
"""Seconds from the acceptance of a connection to the last byte of the answer."""

_HEAD = 4096
"""Bytes of a request up to the blank line."""

_PAUSE = 0.1
"""Seconds without new connections after one could not be accepted."""

_RESET = (1).to_bytes(4, sys.byteorder) + bytes(4)
"""For SO_LINGER: close at once, and throw away what is not sent yet."""


class Endpoint:
    """Answers GET and HEAD, one request a connection, on one address.

    Args:
        poll: what the caller waits with. Its events that are not the caller's are for `serve`.
        host: an IPv4 or IPv6 address, or a name, which stands for its IPv4 address.
        port: from 0, which is any free one, to 65535.
        answers: by path, what gives the content type and the body. It is called in `serve`, and must not block.

    Attributes:
        port: the real one.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(
        self,
        poll: select.epoll | select.poll,
        host: str,
        port: int,
        answers: Mapping[str, Callable[[], tuple[str, str]]],
    ) -> None:
        self._poll = poll
        self._answers = answers
        self._connections: dict[int, _Connection] = {}  # by file descriptor, the oldest first
        self._resume: float | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as low:
            self._listener = socket.socket(fileno=high(low.fileno()))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        poll.register(self._listener, select.POLLIN)

    def serve(self, fd: int, event: int, now: float) -> bool:  # noqa: ARG002
        """Do what a socket allows to do, whatever the event was, and say whether the socket was one of the endpoint's.

        `now` is in seconds of a monotonic clock. Nothing is raised.
        """
        if fd == self._listener.fileno():
            self._accept(now)
        elif connection := self._connections.get(fd):
            try:
                self._poll.modify(fd, next(connection.conversation))
            except Exception:  # it is over, or the client is gone
                self._close(fd)
        else:
            return False
        return True

    def expire(self, now: float) -> None:
        """Drop the connections that are too old. To be called ten times a second or so."""
        for fd in [fd for fd, connection in self._connections.items() if now - connection.since > _LIFETIME]:
            self._drop(fd)
        if self._resume is not None and now >= self._resume:
            self._resume = None
            self._poll.modify(self._listener, select.POLLIN)

    def close(self) -> None:
        """Drop all connections, and listen no more."""
        for fd in list(self._connections):
            self._drop(fd)
        self._poll.unregister(self._listener)
        self._listener.close()

    def _accept(self, now: float) -> None:
        try:
            client, _ = self._listener.accept()
            client.setblocking(False)
            conversation = self._converse(client)
            self._poll.register(client, next(conversation))
        except Exception:
            # Where files are short (EMFILE) the client stays in the queue, and poll would say so again and again.
            self._poll.modify(self._listener, 0)
            self._resume = now + _PAUSE
            return
        self._connections[client.fileno()] = _Connection(client, now, conversation)
        if len(self._connections) > _CONNECTIONS:
            self._drop(next(iter(self._connections)))

    def _drop(self, fd: int) -> None:
        with suppress(OSError):
            self._connections[fd].client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close(fd)

    def _close(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._connections.pop(fd).client.close()

    def _converse(self, client: socket.socket) -> Iterator[int]:
        """Read a request and answer it. What is given is what to wait for until there is more to do."""
        head = b""
        while len(head) < _HEAD and not _complete(head):
            yield select.POLLIN
            received = client.recv(_HEAD - len(head))
            if not received:
                return
            head += received
        unsent = memoryview(self._answer(head))
        while unsent:
            yield select.POLLOUT
            with suppress(BlockingIOError):  # where the kernel is short of memory
                # An application may have given SIGPIPE back its default, which ends the process.
                unsent = unsent[client.send(unsent, socket.MSG_NOSIGNAL) :]
        # To close while there is something to read, such as a body, takes the answer away from the client.
        client.shutdown(socket.SHUT_WR)
        while True:
            yield select.POLLIN
            if not client.recv(_HEAD):
                return

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\n")[0].decode("latin-1").removesuffix("\r").partition(" ")
        target, _, version = rest.partition(" ")
        content_type = "text/plain; charset=utf-8"
        if not _complete(head):
            status = "431 Request Header Fields Too Large"
        elif not method or not target or version not in {"HTTP/1.0", "HTTP/1.1"}:
            status = "400 Bad Request"
        elif method not in {"GET", "HEAD"}:
            status = "405 Method Not Allowed"
        elif not (answer := self._answers.get(_path(target))):
            status = "404 Not Found"
        else:
            status = "500 Internal Server Error"
            with suppress(Exception):
                content_type, text = answer()
                body = text.encode(errors="replace")  # a surrogate in a name
                status = "200 OK"
        if status != "200 OK":
            body = f"{status}\n".encode()
        fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nAllow: GET, HEAD\r\nConnection: close"
        return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + (b"" if method == "HEAD" else body)


class _Connection(NamedTuple):
    client: socket.socket
    since: float
    conversation: Iterator[int]


def _path(target: str) -> str:
    """The path of a target, which can be a whole URL: what proxies are asked for, and servers must take, too."""
    if target[:7].lower() == "http://":
        target = "/" + target[7:].partition("/")[2]
    return target.partition("?")[0]


def _complete(head: bytes) -> bool:
    return b"\n\r\n" in head or b"\n\n" in head
