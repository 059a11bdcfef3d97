"""examples/script_otlp: its last values arrive, whether it comes to its end or is ended."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from .examples import assert_ends, running
from .processes import wait_for

if TYPE_CHECKING:
    from .otlp import Receiver

EXAMPLE = "script_otlp"


def test_one_export_at_the_end(receiver: Receiver) -> None:
    with running(EXAMPLE, "=otlp", **receiver.environment) as script:
        assert script.wait() == 0
        lifetime = time.monotonic() - script.started
        assert script.stderr == ""
        seconds = dict(re.findall(r"^(\w+): (\d+\.\d) s", script.stdout, re.MULTILINE))
        ((exported,),) = receiver.times().values()
        # It starts in Python, too.
        assert float(seconds["parsing"]) * 0.8 < exported.blocked < lifetime - float(seconds["packing"]) * 0.5
        assert exported.blocked + exported.free == pytest.approx(sum(map(float, seconds.values())), rel=0.1, abs=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_early(receiver: Receiver, number: int) -> None:
    with running(EXAMPLE, "=otlp", **receiver.environment) as script:
        wait_for(lambda: "parsing" in script.stdout, "its first half")
        script.signal(number)
        assert_ends(script, 128 + number)
        assert "packing" not in script.stdout
        ((exported,),) = receiver.times().values()
        assert exported.blocked > 0.2
