"""Subinterpreters of the application: `opentelemetry-instrument` calls us in each, and none may have a thread of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from otel_gil._cli.instrumented import instrument

Run = Callable[..., "subprocess.CompletedProcess[str]"]

MAKE = """
try:
    import _interpreters as interpreters
    make = {"isolated": interpreters.create, "legacy": lambda: interpreters.create("legacy")}
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    make = {"isolated": interpreters.create, "legacy": lambda: interpreters.create(isolated=False)}
    run = interpreters.run_string

def in_subinterpreter(kind, code):
    interpreter = make[kind]()
    failed = run(interpreter, code)
    interpreters.destroy(interpreter)
    assert failed is None, failed
"""

ISOLATED = pytest.param(
    "isolated",
    marks=pytest.mark.skipif(
        sys.version_info[:2] == (3, 12), reason="`import hashlib` in one is enough to make CPython 3.12.1 abort at exit"
    ),
)
KINDS = pytest.mark.parametrize("kind", [ISOLATED, "legacy"])


@KINDS
def test_instrument_does_nothing_and_says_so(run: Run, kind: str) -> None:
    code = """
import sys
in_subinterpreter(sys.argv[1], '''
import logging, os, threading
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc") else 0
from otel_gil import GilInstrumentor
from otel_gil._instrumentor import measuring
GilInstrumentor().instrument()
assert measuring() is None
if threads:
    assert len(os.listdir("/proc/self/task")) == threads
GilInstrumentor().uninstrument()
''')
print("alive")
"""
    done = run(MAKE + code, kind)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    said = [line for line in done.stderr.splitlines() if "GIL" in line]
    assert said == ["DEBUG The GIL is measured in the main interpreter only, which this is not"]


@KINDS
def test_main_interpreter_measures_on(run: Run, kind: str) -> None:
    code = """
import sys, time
from opentelemetry.sdk.metrics import MeterProvider
from otel_gil import GilInstrumentor
from otel_gil._instrumentor import read
GilInstrumentor().instrument(meter_provider=MeterProvider(), sampling_interval=1)
while not (first := read()):
    time.sleep(0.01)
for _ in range(5):
    in_subinterpreter(sys.argv[1], "from otel_gil import GilInstrumentor; GilInstrumentor().instrument()")
time.sleep(0.1)
last = read()
assert last.blocked + last.free > first.blocked + first.free
"""
    done = run(MAKE + code, kind)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


AUTO_INSTRUMENTED = {
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


def opentelemetry_instrument(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        instrument([sys.executable, "-c", code, *args]),
        env={**os.environ, **AUTO_INSTRUMENTED},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@KINDS
def test_under_opentelemetry_instrument(kind: str) -> None:
    """Each subinterpreter runs its `sitecustomize`.

    In an isolated one before 3.13 the SDK itself fails, as it uses threads and ctypes.
    """
    code = """
import sys
from otel_gil._instrumentor import measuring
assert measuring() is not None
for _ in range(3):
    in_subinterpreter(sys.argv[1], '''
import sys
assert "otel_gil" in sys.modules or sys.version_info < (3, 13), "sitecustomize has not loaded it"
''')
print("alive")
"""
    done = opentelemetry_instrument(MAKE + code, kind)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters is of CPython 3.14 and later")
def test_pool_of_interpreters_under_opentelemetry_instrument() -> None:
    code = """
from concurrent import interpreters
from concurrent.futures import InterpreterPoolExecutor
interpreter = interpreters.create()
interpreter.exec("x = 1")
interpreter.close()
with InterpreterPoolExecutor(3) as pool:
    print(sum(pool.map(abs, range(-10, 0))))
"""
    done = opentelemetry_instrument(code)
    assert (done.returncode, done.stdout) == (0, "55\n"), done.stderr
