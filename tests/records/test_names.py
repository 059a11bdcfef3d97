"""Names of modules, functions and threads: the real ones, and that none of them is a new series each time."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import threading
from _thread import start_new_thread
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from types import FunctionType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_gil._records.names import function, module, thread

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS = ["", "relative", "/srv/app", "/x/lib", "/x/lib/site-packages/", "/x/lib-2", "/x/app.zip"]

MODULES = {
    "/x/lib/json/decoder.py": "json.decoder",
    "/x/lib/json/__init__.py": "json",
    "/x/lib/site-packages/json/tool.py": "json.tool",
    "/x/lib/site-packages/a/b/__init__.py": "a.b",
    "/x/lib/__init__.py": "lib",
    "/x/lib/pkg/__main__.py": "pkg.__main__",
    "/x/lib-2/json.py": "json",
    "/x/library/json.py": "json",
    "/x/app.zip/pkg/mod.py": "pkg.mod",
    "/srv/app/01_load.py": "01_load",
    "/srv/app/serve": "serve",
    "/srv/app/app.wsgi": "app",
    "/srv/app/.hidden": ".hidden",
    "relative/app.py": "app",
    "app.py": "app",
    "/elsewhere/plugin.v2.py": "plugin.v2",
    "/elsewhere/plugin/__init__.py": "plugin",
    "/__init__.py": "__init__",
    "__init__.py": "__init__",
    "": "",
    "/": "",
    "<frozen importlib._bootstrap>": "importlib._bootstrap",
    "<frozen os>": "os",
    "<frozen encodings.cp437>": "encodings.cp437",
    "<string>": "<string>",
    "<stdin>": "<stdin>",
    "<__array_function__ internals>": "<__array_function__ internals>",
    "<ipython-input-3-abc>": "<ipython-input>",
    "<ipython-input-12-7e1f0a>": "<ipython-input>",
    "<python-input-0>": "<python-input>",
    "<decorator-gen-123>": "<decorator-gen>",
    "<doctest json.decoder[7]>": "<doctest json.decoder>",
    "<attrs generated methods app.User-2>": "<attrs generated methods app.User>",
    "<eval_with_key>.12": "<eval_with_key>",
    "/tmp/ipykernel_4711/1234567890.py": "<ipykernel>",
    "1234567890.py": "<>",
}

THREADS = {
    "Thread-7": "Thread",
    "Thread-12 (work)": "Thread (work)",
    "Thread-12 (process_request_thread)": "Thread (process_request_thread)",
    "Thread-3 (<lambda>)": "Thread (<lambda>)",
    "Dummy-3": "Dummy",
    "ThreadPoolExecutor-5_0": "ThreadPoolExecutor",
    "asyncio_3": "asyncio",
    "asyncio-waitpid-12": "asyncio-waitpid",
    "Process-2": "Process",
    "SpawnProcess-2|Thread-5 (work)": "SpawnProcess|Thread (work)",
    "ForkProcess-2:14:1|reader-1": "ForkProcess|reader-1",
    "ForkPoolWorker-3": "ForkPoolWorker",
    "MainProcess|Thread-1": "MainProcess|Thread",
    "Dask-Default-Threads-12345-0": "Dask-Default-Threads",
    "Dask-Actor-Threads-12345-3": "Dask-Actor-Threads",
    "DaskThreadPoolExecutor-12345-3": "DaskThreadPoolExecutor",
    "Dask-GPU-Threads-12345-3": "Dask-GPU-Threads",
    "0-Dask-Default-Threads-12345-17": "Dask-Default-Threads",
    "tcp://10.0.0.1:4000-Dask-Default-Threads-12345-17": "Dask-Default-Threads",
    "w (1)-Dask-Default-Threads-12345-17": "Dask-Default-Threads",
    "Dask-Offload_0": "Dask-Offload",
    "Dask-Callback-Thread_0": "Dask-Callback-Thread",
}

AS_THEY_ARE = [
    "",
    "MainThread",
    "QueueFeederThread",
    "QueueManagerThread",
    "Profile",
    "IO loop",
    "AsyncProcess Dask Worker process (from Nanny) watch message queue",
    "AnyIO worker thread",
    "OtelPeriodicExportingMetricReader",
    "worker-3",
    "reader_1",
    "Thread_0",
    "asyncio-3",
    "MyThread-3",
    "Thread-3-x",
    "my ThreadPoolExecutor-5_0",
    "pool-1_0",
    "Dask",
    "Dask-3",
    "my-Dask-3",
]


@pytest.mark.parametrize(("filename", "name"), MODULES.items())
def test_module(filename: str, name: str) -> None:
    assert module(filename, PATHS) == name


def test_module_in_the_root() -> None:
    assert module("/app.py", ["/"]) == "app"
    assert module("/opt/app.py", ["/"]) == "opt.app"
    assert module("/opt/app.py", ["/", "/opt//"]) == "app"


def test_function() -> None:
    assert function("/x/lib/json/decoder.py", "JSONDecoder.raw_decode", PATHS) == "json.decoder.JSONDecoder.raw_decode"
    assert function("/srv/app/app.py", "<module>", PATHS) == "app.<module>"
    assert function("<string>", "f.<locals>.<lambda>", PATHS) == "<string>.f.<locals>.<lambda>"


def _functions(name: str) -> Iterator[FunctionType]:
    """Those that a module and its classes define, and that go by the name that they were defined with."""
    members = vars(importlib.import_module(name))
    for owner in [members, *(vars(c) for c in members.values() if inspect.isclass(c) and c.__module__ == name)]:
        for f in owner.values():
            f = getattr(f, "__func__", f)
            if isinstance(f, FunctionType) and f.__module__ == name and not hasattr(f, "__wrapped__"):
                yield f


@pytest.mark.parametrize(
    "name",
    "abc argparse ast asyncio.base_events codecs concurrent.futures.thread contextlib email.message http.server inspect "
    "json json.decoder logging logging.handlers os pickle posixpath queue random socket socketserver subprocess "
    "textwrap threading traceback unittest.mock zipfile hypothesis.strategies pytest otel_gil._samplers.estimator".split(),
)
def test_functions_as_python_calls_them(name: str) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("co_qualname came with CPython 3.11")
    for f in _functions(name):
        if f.__code__.co_filename != "<string>":
            assert function(f.__code__.co_filename, f.__code__.co_qualname, sys.path) == f"{name}.{f.__qualname__}"


@pytest.mark.parametrize(("made", "name"), THREADS.items())
def test_thread(made: str, name: str) -> None:
    assert thread(made) == name


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_thread_named_by_the_user_or_without_a_number(name: str) -> None:
    assert thread(name) == name


def _name() -> str:
    return threading.current_thread().name


def test_threads_as_they_are_really_called() -> None:
    """Twice, so that all counters have gone on."""
    from distributed.threadpoolexecutor import ThreadPoolExecutor as DaskThreadPoolExecutor

    async def of_asyncio() -> str:
        return await asyncio.to_thread(_name)

    for _ in range(2):
        names: Queue[str] = Queue()
        threading.Thread(target=lambda: names.put(_name())).start()
        assert thread(names.get()) == "Thread (<lambda>)"
        threading.Timer(0, lambda: names.put(_name())).start()
        assert thread(names.get()) == "Thread"
        start_new_thread(lambda: names.put(_name()), ())
        assert thread(names.get()) == "Dummy"
        assert thread(asyncio.run(of_asyncio())) == "asyncio"
        for executor, name in [
            (ThreadPoolExecutor(1), "ThreadPoolExecutor"),
            (ThreadPoolExecutor(1, "mine"), "mine_0"),
            (DaskThreadPoolExecutor(1), "DaskThreadPoolExecutor"),
            (DaskThreadPoolExecutor(1, thread_name_prefix="3-Dask-Default-Threads"), "Dask-Default-Threads"),
        ]:
            with executor:
                assert thread(executor.submit(_name).result()) == name


COUNTER = st.integers(0, 10**12).map(str)
NAMES = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["Thread", "Dummy", "Dask", "asyncio", *"-_|:(3 x", " ("])).map("".join),
    st.sampled_from([*THREADS, *AS_THEY_ARE]),
)


@given(NAMES)
def test_a_thread_once_renamed_is_so_for_good(name: str) -> None:
    assert thread(thread(name)) == thread(name)


@given(st.sampled_from(list(THREADS)), st.data())
def test_a_counter_makes_no_new_thread(made: str, data: st.DataObject) -> None:
    if made.endswith("|reader-1"):
        made = made.removesuffix("|reader-1")
    assert thread(_counted_on(made, data)) == thread(made)


@given(
    st.sampled_from([name for name in MODULES if name.startswith(("<", "/tmp")) and not name.startswith("<frozen ")]),
    st.data(),
)
def test_a_counter_makes_no_new_module(filename: str, data: st.DataObject) -> None:
    assert module(_counted_on(filename, data), PATHS) == module(filename, PATHS)


def _counted_on(name: str, data: st.DataObject) -> str:
    """With other numbers in place of its own."""
    digits = "".join("0" if character.isdigit() else character for character in name)
    while "00" in digits:
        digits = digits.replace("00", "0")
    return "".join(data.draw(COUNTER) if character == "0" else character for character in digits)


FILENAMES = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["/", "/x/lib", "__init__", ".py", "<", ">", "frozen ", *"./3-a"])).map("".join),
)


@given(FILENAMES, st.text(), st.lists(FILENAMES))
def test_anything_has_a_name(filename: str, qualname: str, paths: list[str]) -> None:
    name = module(filename, paths)
    assert "/" not in name or filename.startswith("<")
    assert function(filename, qualname, paths) == f"{name}.{qualname}"


@given(st.text().map("<{}".format))
def test_source_without_a_file_once_renamed_is_so_for_good(filename: str) -> None:
    name = module(filename, PATHS)
    if name.startswith("<"):
        assert module(name, PATHS) == name
