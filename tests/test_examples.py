from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from otel_gil._samplers import disabled

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICKSTART = EXAMPLES / "quickstart.py"

INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | variables


def test_quickstart() -> None:
    done = subprocess.run(
        [sys.executable, QUICKSTART, "4"],
        env=environment(OTEL_PYTHON_GIL_SAMPLING_INTERVAL="5"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    parsing, hashing = map(float, re.findall(r"^(?:JSON|hashing): contention (\d\.\d\d)$", done.stdout, re.MULTILINE))
    if disabled.unavailable() is not None:
        assert parsing > 0.6
        assert hashing < 0.3


def test_quickstart_under_auto_instrumentation() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSTRUMENT, sys.executable, QUICKSTART, "1"],
        env=environment(OTEL_METRICS_EXPORTER="console", OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="none"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "cpython.gil.contention" in done.stdout
    assert "contention 0." not in done.stdout
    assert done.stderr == ""


def test_dask_cluster() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "dask_cluster.py", "1"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert re.search(r"^metrics of the worker: http://127\.0\.0\.1:\d+/metrics$", done.stdout, re.MULTILINE)
    python, numpy = map(float, re.findall(r"^(?:Python|NumPy): contention (\d\.\d\d) ", done.stdout, re.MULTILINE))
    if disabled.unavailable() is not None:
        assert python > 0.6
        assert numpy < 0.4
    for ours, dask in re.findall(
        r": (\S+) s blocked .*_contention_seconds_total: (\S+) s\)$", done.stdout, re.MULTILINE
    ):
        assert float(dask) == pytest.approx(float(ours), abs=0.1)


def test_readme_lists_all() -> None:
    listed = re.findall(r"^\| \[(.+)\]\(\1\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "README.md"]) == sorted(
        path.name for path in EXAMPLES.iterdir() if path.name[0] not in "._"
    )


@pytest.mark.parametrize("example", ["celery_prefork", "culprit", "fastapi_uvicorn", "flask_gunicorn", "script_otlp"])
def test_installs_what_it_is_tested_with(example: str) -> None:
    (line,) = re.findall(r"^\$ pip install (.+)", (EXAMPLES / example / "README.md").read_text(), re.MULTILINE)
    for requirement in shlex.split(line):
        importlib.metadata.version(requirement.partition("[")[0])
