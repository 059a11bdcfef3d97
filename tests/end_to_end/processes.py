"""Applications as users start them, mostly under the real `opentelemetry-instrument`."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

APPS = "end_to_end.apps"
SCRIPTS = Path(sysconfig.get_path("scripts"))
INSTRUMENT = SCRIPTS / "opentelemetry-instrument"


class Application:
    """A command in a session of its own, its output in files.

    Of our environment it inherits nothing that matters to OpenTelemetry, to Python or to HTTP clients.
    """

    def __init__(self, folder: Path, *command: str | Path, **environment: str) -> None:
        self.folder = folder
        inherited = {
            name: value for name, value in os.environ.items() if not re.match("OTEL|PYTHON|.*_PROXY$", name, re.I)
        }
        self.started = time.monotonic()
        with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **environment},
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        """What it has written there so far."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return (self.folder / "stderr").read_text()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the application itself."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Close its standard input and wait until it and all its children have ended; gives its exit code."""
        if self._process.stdin:
            self._process.stdin.close()
        code = self._process.wait(timeout)
        wait_for(lambda: not _processes(self.pid), f"the children of {self._process.args!r} to end")
        return code

    def kill(self) -> None:
        """Leave none of its processes behind."""
        while self.running or _processes(self.pid):
            for pid in _processes(self.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.01)
        if self._process.stdin:
            self._process.stdin.close()


def absent(what: str) -> NoReturn:
    """Skip what needs it, or fail, where nothing may be skipped."""
    if os.environ.get("OTEL_GIL_REQUIRE_SERVERS"):
        pytest.fail(what)
    pytest.skip(what)


def python(app: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs one of `apps`."""
    return (sys.executable, "-m", f"{APPS}.{app}", *arguments)


class Start(Protocol):
    """Starts applications under `opentelemetry-instrument`: a command, and environment variables for it."""

    def __call__(self, *command: str | Path, **environment: str) -> Application:
        """Start one."""


@contextmanager
def applications(*, instrument: bool = True) -> Iterator[Start]:
    """Starts applications, under `opentelemetry-instrument` or as they are, and ends what is left of them."""
    under = (INSTRUMENT,) if instrument else ()
    defaults = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    started: list[Application] = []
    with TemporaryDirectory(prefix="otel-gil-") as folder:

        def start(*command: str | Path, **environment: str) -> Application:
            own_folder = Path(folder, str(len(started)))
            own_folder.mkdir()
            started.append(Application(own_folder, *under, *command, **{**defaults, **environment}))
            return started[-1]

        try:
            yield start
        finally:
            for application in started:
                application.kill()
                print(application.stderr)  # pytest shows it where a test fails


def wait_for(condition: Callable[[], T], what: str, timeout: float = 30) -> T:
    """Wait until a condition gives something true, and return that."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited for {timeout} s for {what}")
        time.sleep(0.05)
    return result


def free_port() -> int:
    """A port of the loopback interface, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _processes(session: int) -> list[int]:
    """The processes of a session, without those that have ended already and that nobody asked for their exit code."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found
