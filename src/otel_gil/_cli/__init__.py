"""The command `otel-gil`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from otel_gil.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_PORTS = range(0x10000)
_SHORTEST = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, with the arguments of the process by default, and return its exit code.

    Raises:
        SystemExit: the arguments can't be used, or ask for help or the version.
    """
    parser = argparse.ArgumentParser(prog="otel-gil", description="GIL contention as OpenTelemetry metrics.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    summary = "play workloads whose contention is known, and show what is exported for them"
    for_demo = commands.add_parser("demo", help=summary, description=summary.capitalize() + ".")
    for_demo.add_argument(
        "--seconds",
        type=positive_number,
        default=38.0,
        help="for how long the workloads are played, all together, at the least (default: %(default)g)",
    )
    for_demo.add_argument(
        "--port", type=port, default=0, help="port of 127.0.0.1 to serve the metrics on (default: a free one)"
    )
    summary = "run a program, and show live who holds its GIL"
    for_top = commands.add_parser(
        "top",
        usage="%(prog)s [-h] [--interval SECONDS] [--] PROGRAM [ARGUMENT ...]",
        help=summary,
        description="Run a program, and show live who holds its GIL. On Linux and macOS, CPython 3.10 to 3.15.",
    )
    for_top.add_argument(
        "--interval",
        type=interval,
        default=1.0,
        metavar="SECONDS",
        help="from one reading to the next, .1 at the least (default: %(default)g)",
    )
    for_top.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM", help="what to run, and its arguments")
    summary = "say whether and how the GIL can be measured here"
    commands.add_parser("doctor", help=summary, description=summary.capitalize() + ".")
    for name, what in ("dashboard", "the Grafana dashboard, as JSON"), ("rules", "the Prometheus rules, as YAML"):
        printer = commands.add_parser(name, help=f"print {what}", description=f"Print {what}.")
        printer.add_argument("--output", metavar="FILE", help="write it to FILE instead")
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        from otel_gil._cli import demo

        return demo.run(arguments.seconds, arguments.port)
    if arguments.command == "top":
        from otel_gil._cli import top

        program = arguments.program[arguments.program[:1] == ["--"] :]
        if not program:
            for_top.error("the following arguments are required: PROGRAM")
        return top.run(program, arguments.interval)
    if arguments.command in ("dashboard", "rules"):
        from otel_gil._cli import monitoring

        return monitoring.run(arguments.command, arguments.output)
    from otel_gil._cli import doctor

    return doctor.run()


def positive_number(text: str) -> float:
    """Parse a finite number above 0; argparse tells the user this function's name."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def interval(text: str) -> float:
    """Parse seconds, .1 at the least; argparse tells the user this function's name."""
    number = positive_number(text)
    if number < _SHORTEST:
        raise ValueError(text)
    return number


def port(text: str) -> int:
    """Parse a TCP port; argparse tells the user this function's name."""
    number = int(text)
    if number not in _PORTS:
        raise ValueError(text)
    return number
