"""What threads and functions are called in the metrics, where each new name is a new series for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN = "_unknown"
"""What can't be named: a thread that ended before it was asked for, a function that changed while it was read."""

LONGEST = 200
"""Characters of a name."""

_DIGITS = "0123456789"
_WITHOUT_DIGITS = str.maketrans("", "", _DIGITS)

_COUNTED = (
    "Thread-",
    "Dummy-",
    "ThreadPoolExecutor-_",
    "asyncio_",
    "asyncio-waitpid-",
    # A thread of a multiprocessing manager is called after the process that it serves.
    "Process-",
    "ForkProcess-",
    "SpawnProcess-",
    "ForkServerProcess-",
    "ForkPoolWorker-",
    "SpawnPoolWorker-",
    "ForkServerPoolWorker-",
)
"""The standard library's names, less the digits."""


def module(filename: str, paths: Sequence[str]) -> str:
    """The dotted name of the module in a source file, as far as the text of its name tells.

    Source that is in no file keeps its name (`<string>`), less its number and all after that: `<ipython-input-3-1f0a>`
    is `<ipython-input>`, and `/tmp/ipykernel_12/345.py`, a cell of a notebook, is `<ipykernel>`.

    Args:
        filename: `co_filename`.
        paths: `sys.path`. Relative ones are ignored. A file that is in none of them is a module of its own.
    """
    if filename.startswith("<frozen "):
        return filename[len("<frozen ") :].rstrip(">")
    if filename.startswith("<"):
        return _without_number(filename)
    folder, slash, file = filename.rpartition("/")
    stem = file.rpartition(".")[0] or file
    if stem.isdigit():
        return _without_number(f"{folder.rpartition('/')[2]}/{stem}")
    name = folder if folder and stem == "__init__" else folder + slash + stem
    within = [root for path in paths if path.startswith("/") and name.startswith(root := path.rstrip("/") + "/")]
    if not within:
        return name.rpartition("/")[2]
    return name[max(map(len, within)) :].replace("/", ".")


def function(filename: str, qualname: str, paths: Sequence[str]) -> str:
    """`code.function.name`: the fully qualified name of a function.

    Args:
        filename: `co_filename`.
        qualname: `co_qualname`.
        paths: `sys.path`.
    """
    return f"{module(filename, paths)}.{qualname}"


def thread(name: str) -> str:
    """`thread.name`: the name, less what counts threads, pools and processes if the standard library or Dask made it.

    Names that the user chose stay, also numbered ones. From a Dask worker's threads, the worker's name goes too.
    """
    if "|" in name:  # a multiprocessing manager's: process|thread
        return "|".join(map(thread, name.split("|")))
    numbered, bracket, target = name.partition(" (")
    counted = numbered.translate(_WITHOUT_DIGITS).rstrip(":")
    if counted in _COUNTED:
        return counted.rstrip("-_") + bracket + target
    pool = name[name.rfind("-Dask-") + 1 :]
    if pool.startswith("Dask") and pool.translate(_WITHOUT_DIGITS).endswith(("--", "_")):
        return pool.rstrip(_DIGITS + "-_")
    return name


def _without_number(name: str) -> str:
    for i, character in enumerate(name):
        if character.isdigit():
            return f"<{name[:i].lstrip('<').rstrip('<>[(-_./:# ')}>"
    return name
