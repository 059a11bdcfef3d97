"""Whether an installed otel-gil has an extension that works here: run from `make wheels`, cibuildwheel, or by hand."""

from __future__ import annotations

import platform
import threading
import time

from otel_gil import _recorder
from otel_gil.version import __version__

SECONDS = 1.0


def seen() -> str | None:
    """Why the recorder did not see this function, called by the next; None where it did."""
    return _recorder.prove("seen", "caller", threading.get_native_id())


def caller() -> str | None:
    """Calls it."""
    return seen()


def record() -> None:
    """Run the recorder while two threads compute."""
    _recorder.start(0.01, SECONDS, 10.0, True, True, False, "smoke", "", [], (0.0, 0.0, 0.0, 0.0, 0, 0))
    before = _recorder.state()
    end = time.monotonic() + SECONDS

    def compute() -> None:
        while time.monotonic() < end:
            pass

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not _recorder.running() or _recorder.state() == before:
        raise SystemExit("the recorder does not run")
    if not _recorder.stop():
        raise SystemExit("the recorder does not stop")


def main() -> None:
    """End with a message where something does not work."""
    reason = _recorder.find() or caller()
    if reason:
        raise SystemExit(reason)
    record()
    print(f"otel-gil {__version__} records CPython {platform.python_version()} on {platform.platform()}")


if __name__ == "__main__":
    main()
