"""Real sockets, and a clock that the test puts forward."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from threading import Thread
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from otel_gil._observer import exposition
from otel_gil._observer.endpoint import Endpoint
from otel_gil._snapshot import Held, Snapshot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the observer is for Linux")

READING = Snapshot(0.25, 1.0, 3.0, held=(Held("a\nb", 'f"', 1.0),))
BIG = "0123456789abcdef" * 500_000

ABORT = b"\1\0\0\0\0\0\0\0" if sys.byteorder == "little" else b"\0\0\0\1\0\0\0\0"

Eventually = Callable[[Callable[[], bool]], None]


def _fail() -> tuple[str, str]:
    raise ZeroDivisionError


ANSWERS: dict[str, Callable[[], tuple[str, str]]] = {
    "/metrics": lambda: (exposition.CONTENT_TYPE, exposition.text(READING)),
    "/small": lambda: ("text/plain", "small"),
    "/big": lambda: ("text/plain", BIG),
    "/surrogate": lambda: ("text/plain", "a\udc80b"),
    "/broken": _fail,
}


class Server:
    """An endpoint and the loop that drives it, in which time is what the test says."""

    def __init__(self, poll: select.epoll | select.poll, unit: float, host: str = "127.0.0.1") -> None:
        self.now = 1000.0
        self.events = 0
        self._poll = poll
        self._timeout = 0.01 * unit
        self._endpoint = Endpoint(poll, host, 0, ANSWERS)
        self.port = self._endpoint.port
        self._clients: list[socket.socket] = []
        self._running = True
        self._problem: BaseException | None = None
        self._thread = Thread(target=self._loop)
        self._thread.start()

    def connect(self, sent: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        client = socket.socket()
        self._clients.append(client)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect(("127.0.0.1", self.port))
        client.sendall(sent)
        return client

    def ask(self, request: bytes) -> tuple[str, dict[str, str], bytes]:
        """Status, header fields and body of the answer."""
        client = self.connect(request)
        head, _, body = _rest(client).partition(b"\r\n\r\n")
        client.close()
        status, *fields = head.decode().split("\r\n")
        assert status.startswith("HTTP/1.1 ")
        return status[9:], dict(field.split(": ") for field in fields), body

    def get(self, path: str) -> bytes:
        status, _, body = self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert status == "200 OK"
        return body

    def stop(self) -> None:
        self._running = False
        self._thread.join()
        for client in self._clients:
            client.close()
        assert self._problem is None

    def _loop(self) -> None:
        try:
            while self._running:
                for fd, event in self._poll.poll(self._timeout):
                    self.events += 1
                    assert self._endpoint.serve(fd, event, self.now)
                self._endpoint.expire(self.now)
        except BaseException as problem:
            self._problem = problem
        finally:
            self._endpoint.close()


@pytest.fixture(params=["epoll", "poll"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    before = _sockets()
    if request.param == "poll":
        server = Server(select.poll(), 1000)
        yield server
        server.stop()
    else:
        with select.epoll() as poll:
            server = Server(poll, 1)
            yield server
            server.stop()
    assert _sockets() <= before


def _sockets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {link for link in found if link.startswith("socket:")}


def _rest(client: socket.socket) -> bytes:
    """All that the client gets up to the end of the connection."""
    received = bytearray()
    while piece := client.recv(65536):
        received += piece
    return bytes(received)


def _ended(client: socket.socket) -> bool:
    """Whether the endpoint has ended the connection, having sent nothing more."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _abort(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    client.close()


def test_get(server: Server) -> None:
    with urlopen(f"http://127.0.0.1:{server.port}/metrics?name[]=x", timeout=20) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.headers["Connection"] == "close"
        text = response.read().decode()
    assert text == exposition.text(READING)
    samples = {sample.name: sample for metric in parse(text) for sample in metric.samples}
    assert samples["cpython_gil_contention"].value == 0.25
    assert samples["cpython_gil_held_time_seconds_total"].labels == {"thread_name": "a\nb", "code_function_name": 'f"'}


@pytest.mark.parametrize("host", ["http://localhost:9464", "HTTP://x", "http://[::1]:1"])
def test_absolute_form(server: Server, host: str) -> None:
    """As a proxy is asked, which servers must answer, too (RFC 9112, 3.2.2)."""
    assert server.get(f"{host}/small?a=http://b/c") == b"small"
    assert server.ask(f"GET {host} HTTP/1.1\r\n\r\n".encode())[0] == "404 Not Found"
    assert server.ask(f"GET {host}/none HTTP/1.1\r\n\r\n".encode())[0] == "404 Not Found"


def test_head(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("HEAD", "/metrics")
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Content-Length"] == str(len(exposition.text(READING).encode()))
    connection.close()
    assert server.ask(b"HEAD /metrics HTTP/1.0\r\n\r\n")[2] == b""
    status, fields, body = server.ask(b"HEAD /nothing HTTP/1.0\r\n\r\n")
    assert (status, fields["Content-Length"], body) == ("404 Not Found", "14", b"")


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "metrics", "*", "/nothing?/metrics", "/%6detrics"])
def test_unknown_path(server: Server, path: str) -> None:
    assert server.ask(f"GET {path} HTTP/1.1\r\n\r\n".encode()) == (
        "404 Not Found",
        {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": "14",
            "Allow": "GET, HEAD",
            "Connection": "close",
        },
        b"404 Not Found\n",
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_unknown_method(server: Server, method: str) -> None:
    """A body that nobody reads keeps nobody from the answer."""
    body = bytes(100_000)
    request = f"{method} /metrics HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    status, fields, _ = server.ask(request)
    assert status == "405 Method Not Allowed"
    assert fields["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "line",
    [
        *("", "nonsense", "GET /metrics", "GET /metrics HTTP/2.0", "GET /metrics FTP/1.0", "GET  /metrics HTTP/1.1"),
        *("GET /metrics HTTP/1.1 ", " /metrics HTTP/1.1", "GET  HTTP/1.1", "GET /a b HTTP/1.1", "\xff\x00\x16"),
    ],
)
def test_malformed_line(server: Server, line: str) -> None:
    assert server.ask(line.encode("latin-1") + b"\r\nHost: x\r\n\r\n")[0] == "400 Bad Request"


def test_size_of_the_head(server: Server) -> None:
    line = b"GET /small HTTP/1.1\r\nX: "
    assert server.ask(line + b"x" * (4096 - len(line) - 4) + b"\r\n\r\n")[0] == "200 OK"
    for surplus in (1, 100_000):
        head = line + b"x" * (4096 - len(line) - 4 + surplus) + b"\r\n\r\n"
        assert server.ask(head)[0] == "431 Request Header Fields Too Large"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_pieces(server: Server, end: bytes) -> None:
    client = server.connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"GET /small HTTP/1.1" + end + b"Host: x" + end + end:
        client.sendall(bytes([byte]))
        time.sleep(0.001)
    assert _rest(client).endswith(b"\r\n\r\nsmall")


def test_client_that_sends_no_more(server: Server) -> None:
    """It gets its answer where the request was whole."""
    client = server.connect(b"GET /big HTTP/1.1\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    assert _rest(client).endswith(BIG.encode())
    client = server.connect(b"GET /big HTTP/1.1\r\n")
    client.shutdown(socket.SHUT_WR)
    assert _rest(client) == b""


def test_answer_that_fails(server: Server) -> None:
    status, fields, body = server.ask(b"GET /broken HTTP/1.1\r\n\r\n")
    assert (status, body) == ("500 Internal Server Error", b"500 Internal Server Error\n")
    assert server.get("/small") == b"small"


def test_surrogate(server: Server) -> None:
    assert server.get("/surrogate") == b"a?b"


def test_slow_request(server: Server, eventually: Eventually) -> None:
    """Is dropped two seconds after it came, however it drips."""
    client = server.connect(b"GET /sm")
    assert server.get("/small") == b"small"  # which was accepted later
    for byte in b"all ":
        client.sendall(bytes([byte]))
        server.now += 0.49
        assert server.get("/small") == b"small"
    assert not _ended(client)
    server.now += 0.05
    eventually(lambda: _ended(client))


def test_client_that_keeps_the_connection(server: Server, eventually: Eventually) -> None:
    client = server.connect(b"GET /small HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
    assert _rest(client).endswith(b"small")
    server.now += 2.1
    client.setblocking(False)

    def reset() -> bool:
        try:
            client.send(b"x")
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    eventually(reset)


@pytest.mark.parametrize("crowd", [16, 100])
def test_idle_clients_lock_nobody_out(server: Server, eventually: Eventually, crowd: int) -> None:
    """The clock stands still, and yet there is an answer; the oldest of them made room for it."""
    clients = [server.connect() for _ in range(crowd)]
    assert server.get("/small") == b"small"
    surplus = crowd + 1 - 16
    eventually(lambda: all(_ended(client) for client in clients[:surplus]))
    assert not any(_ended(client) for client in clients[surplus:])
    server.now += 2.1
    eventually(lambda: all(_ended(client) for client in clients))
    assert server.get("/small") == b"small"


def test_slow_reader(server: Server) -> None:
    """It gets all, and meanwhile others are served."""
    client = server.connect(b"GET /big HTTP/1.1\r\n\r\n", receive_buffer=4096)
    received = client.recv(100)
    for _ in range(20):
        received += client.recv(10_000)
        assert server.get("/small") == b"small"
    received += _rest(client)
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(BIG)}\r\n".encode() in head
    assert body == BIG.encode()


def test_reader_that_does_not_read(server: Server, eventually: Eventually) -> None:
    """Nothing is kept for it."""
    client = server.connect(b"GET /big HTTP/1.1\r\n\r\n", receive_buffer=4096)
    client.recv(100)
    before = _sockets()
    server.now += 2.1
    eventually(lambda: _sockets() < before)
    with pytest.raises(ConnectionResetError):
        for _ in range(100):
            assert client.recv(4096)


@pytest.mark.parametrize(
    ("request_", "answered"),
    [(b"", 0), (b"GET /sm", 0), (b"GET /small HTTP/1.1\r\n\r\n", 0), (b"GET /big HTTP/1.1\r\n\r\n", 1000)],
)
def test_client_that_disappears(server: Server, eventually: Eventually, request_: bytes, answered: int) -> None:
    before = _sockets()
    for disappear in (_abort, socket.socket.close):
        for _ in range(20):
            client = server.connect(request_)
            if answered:
                client.recv(answered)
            disappear(client)
        assert server.get("/small") == b"small"
    eventually(lambda: _sockets() <= before)


def test_no_sigpipe(server: Server, eventually: Eventually) -> None:
    """Which ends a process that has given it back its default."""
    signals: list[int] = []
    previous = signal.signal(signal.SIGPIPE, lambda number, _: signals.append(number))
    before = _sockets()
    try:
        for _ in range(20):
            client = server.connect(b"GET /big HTTP/1.1\r\n\r\n", receive_buffer=4096)
            client.shutdown(socket.SHUT_WR)
            client.recv(100)
            _abort(client)
        eventually(lambda: _sockets() <= before)
    finally:
        signal.signal(signal.SIGPIPE, previous)
    assert not signals


def test_no_file_left(server: Server, eventually: Eventually) -> None:
    """A connection for which there is no file waits, and does not keep the loop busy."""
    client = socket.socket()
    client.settimeout(20)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))  # all below that are taken
    try:
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /small HTTP/1.1\r\n\r\n")
        eventually(lambda: server.events == 1)
        time.sleep(0.1)
        assert server.events == 1
        server.now += 0.11
        eventually(lambda: server.events == 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    server.now += 0.11
    assert _rest(client).endswith(b"small")
    client.close()


def test_event_of_another(server: Server) -> None:
    with select.epoll() as poll:
        endpoint = Endpoint(poll, "127.0.0.1", 0, ANSWERS)
        assert not endpoint.serve(0, select.POLLIN, 0.0)
        endpoint.close()
        assert not endpoint.serve(0, select.POLLIN, 0.0)


def test_only_the_address_asked_for(server: Server) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=20)


@pytest.mark.parametrize(("host", "address"), [("127.0.0.2", "127.0.0.2"), ("localhost", "127.0.0.1"), ("::1", "::1")])
def test_host(host: str, address: str) -> None:
    with select.epoll() as poll:
        try:
            endpoint = Endpoint(poll, host, 0, ANSWERS)
        except OSError:
            if host != "::1":
                raise
            pytest.skip("there is no IPv6")
        socket.create_connection((address, endpoint.port), timeout=20).close()
        endpoint.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, endpoint.port), timeout=20)


def test_address_that_can_not_be_bound(server: Server) -> None:
    with select.epoll() as poll:
        with pytest.raises(OSError, match="in use"):
            Endpoint(poll, "127.0.0.1", server.port, ANSWERS)
        for host in ("192.0.2.1", "name.invalid"):
            with pytest.raises(OSError):
                Endpoint(poll, host, 0, ANSWERS)


def test_again_on_the_same_port() -> None:
    """At once, although connections of the one before linger in the kernel."""
    with select.epoll() as poll:
        server = Server(poll, 1)
        assert server.get("/small") == b"small"
        server.stop()
        Endpoint(poll, "127.0.0.1", server.port, ANSWERS).close()
