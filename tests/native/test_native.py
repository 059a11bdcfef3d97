from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from native.run import Runner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")


def test_it_bears_an_interpreter_that_makes_no_sense(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        if os.environ.get("OTEL_GIL_REQUIRE_SERVERS"):
            pytest.fail("there is no gcc")
        pytest.skip("there is no gcc")

    parts = Runner(tmp_path, 8).fuzz()

    for part in parts:
        assert not part.findings, f"{part.name}: {part.findings}\n{part.output}"
