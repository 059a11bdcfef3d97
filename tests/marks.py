"""What some tests need."""

from __future__ import annotations

import os
import sys

import pytest

from otel_gil._samplers import gilknocker, observer

# Where it must be there, as in CI, these tests fail without it, but on versions that it does not work on.
with_gilknocker = pytest.mark.skipif(
    gilknocker.unavailable() is not None
    and not (os.environ.get("OTEL_GIL_REQUIRE_SERVERS") and sys.version_info[:2] <= gilknocker._NEWEST),
    reason=f"the sampler gilknocker can't be used here: {gilknocker.unavailable()}",
)

with_observer = pytest.mark.skipif(
    observer.unavailable() is not None, reason=f"the observer can't be used here: {observer.unavailable()}"
)

# What a shell starts in the background ignores Ctrl-C, and so do its children, the tests among them.
MAIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from otel_gil._cli import main; sys.exit(main())"
)
"""The command `otel-gil`, as Python code."""
