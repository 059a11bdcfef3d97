"""Virtual environments in which every interpreter, however it is started, begins with the SDK or with otel-gil."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Literal, get_args

import otel_gil

Mode = Literal["plain", "sdk", "gil"]
MODES: tuple[Mode, ...] = get_args(Mode)

STARTUP = Path(__file__).parent / "startup.py"

# A .pth file, as -I and -E leave PYTHONPATH out, which `opentelemetry-instrument` uses.
_PTH = """\
{source}
{packages}
import otel_gil_startup
"""

_CHECK = {
    "plain": "import sys; assert 'opentelemetry' not in sys.modules",
    "sdk": "import sys; assert 'opentelemetry.sdk.metrics' in sys.modules and 'otel_gil' not in sys.modules",
    "gil": "from otel_gil._instrumentor import measuring; assert measuring()",
}


def make(folder: Path, mode: Mode) -> Path:
    """The interpreter of a new environment.

    Raises:
        subprocess.CalledProcessError: it does not begin with what it should.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    if mode != "plain":
        version = sysconfig.get_python_version()
        packages = folder / "lib" / f"python{version}" / "site-packages"
        (packages / "otel_gil_startup.py").write_text(f"MODE = {mode!r}\n{STARTUP.read_text()}")
        (packages / "otel_gil_startup.pth").write_text(
            _PTH.format(source=Path(otel_gil.__file__).parent.parent, packages=sysconfig.get_path("purelib"))
        )
    for options in ([], ["-I"], ["-E"]):
        subprocess.run([python, *options, "-c", _CHECK[mode]], check=True, env={}, timeout=60)
    return python
