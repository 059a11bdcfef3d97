"""`otel-gil dashboard` and `otel-gil rules`: the files of `monitoring`, for Grafana and Prometheus."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

FILES = {"dashboard": "dashboard.json", "rules": "rules.yaml"}
"""What the commands give."""


def text(command: str) -> str:
    """What a command gives: JSON for Grafana, or YAML for Prometheus."""
    return (files("otel_gil") / "monitoring" / FILES[command]).read_text("utf-8")


def run(command: str, output: str | None) -> int:
    """Write what a command gives to a file, or to standard output, and return the exit code."""
    if output is None:
        sys.stdout.write(text(command))
        return 0
    try:
        Path(output).write_text(text(command), "utf-8")
    except OSError as error:
        sys.stderr.write(f"{output} can't be written: {error.strerror}\n")
        return 1
    return 0
