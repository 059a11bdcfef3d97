"""`otel-gil top`: runs a program, and shows live who holds its GIL.

The program runs under `opentelemetry-instrument`, with the observer, whose record is read once in an interval. What is
drawn is computed by pure functions: two readings and the size of the terminal in, lines out.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from otel_gil._children import running_python
from otel_gil._cli.instrumented import instrument
from otel_gil._records import files
from otel_gil._records.record import RecordReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_gil._records.files import RecordFile
    from otel_gil._snapshot import Snapshot

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""To the alternate screen, without the cursor, and without wrapping, as not each character is one column wide."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_REVERSE = "7"
_ALARM = "31;7"

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")

_REASON = re.compile(r"\S.*(?:GIL|[Oo]pen[Tt]elemetry)")
"""A line, not indented as those of a traceback are, with which the program may say why it has no observer."""

_HINT = "`otel-gil doctor`, run with the Python of this program, may know why there is none"

_TABLE = ("   HELD", "TOTAL s")
_BAR = 50
"""Columns of the bar, at the most."""

_NAMED = 8
"""Child processes, at the most."""

_START_TIMEOUT = 10.0
"""Seconds after which it is said why there may be no observer."""

_GRACE = 5.0
"""Seconds that the program has to end after Ctrl-C."""

_POLL = 0.1

_TAIL = 20
"""Last lines of the output of a program that failed."""

_READ = 0x10000
"""Bytes of the program's output that are looked at."""

_KEPT = 0x4000000
"""Bytes of the program's output, at the most: a server may run, and write, for days."""


class Reading(NamedTuple):
    """What the record says, so far or, of counters, from one reading to another.

    Attributes:
        blocked, free: seconds.
        waiting: threads that wait for the GIL; None where that is not known.
        switches: how often the GIL went to another thread; None where that is not known.
        stalls: long holds.
        stall: seconds of the one in progress; 0 where there is none.
        holder: whose that is, thread and function.
        held: seconds by thread and function.
    """

    blocked: float
    free: float
    waiting: float | None
    switches: float | None
    stalls: float
    stall: float
    holder: tuple[str, str]
    held: Mapping[tuple[str, str], float]


class Row(NamedTuple):
    """A holder of the GIL, with its share of the interval in [0, 1] and its seconds so far."""

    share: float
    seconds: float
    thread: str
    function: str


class Line(NamedTuple):
    """A line to show, and how it looks on a terminal: the parameters of "select graphic rendition"."""

    text: str
    style: str = ""


START = Reading(0.0, 0.0, None, 0.0, 0.0, 0.0, ("", ""), {})
"""When the program was started."""


def reading_of(snapshot: Snapshot) -> Reading:
    """A snapshot as it is shown."""
    stall = snapshot.stall
    return Reading(
        snapshot.blocked,
        snapshot.free,
        snapshot.waiting,
        snapshot.switches,
        snapshot.stalls or 0,
        stall.seconds if stall else 0.0,
        (stall.thread, stall.function) if stall else ("", ""),
        {(time.thread, time.function): time.seconds for time in snapshot.held},
    )


def since(before: Reading, after: Reading) -> Reading:
    """The counters of `after` without those of `before`; all of them where the program has started itself anew."""
    if after.blocked + after.free < before.blocked + before.free:
        before = START
    return after._replace(
        blocked=after.blocked - before.blocked,
        free=after.free - before.free,
        switches=None if after.switches is None else after.switches - (before.switches or 0.0),
        held={holder: seconds - before.held.get(holder, 0.0) for holder, seconds in after.held.items()},
    )


def rows(before: Reading, after: Reading) -> list[Row]:
    """Who held the GIL between two readings, and before, the greatest share first."""
    spent = since(before, after)
    observed = spent.blocked + spent.free
    # Seconds can be told late, such as those of a thread that had no name yet: all shares are at most the contention.
    told = max(sum(spent.held.values()), spent.blocked)
    scale = spent.blocked / (observed * told) if observed and told else 0.0
    found = [Row(spent.held[holder] * scale, seconds, *holder) for holder, seconds in after.held.items()]
    return sorted(found, reverse=True)


def stall(reading: Reading) -> str:
    """The hold in progress, in words; empty where there is none."""
    if not reading.stall:
        return ""
    thread, function = map(clean, reading.holder)
    return f"GIL held for {reading.stall:.1f} s by {thread}" + (f" in {function}" if function else "")


def status(before: Reading, after: Reading, columns: int) -> list[str]:
    """Contention with a bar, and the numbers beside it."""
    spent = since(before, after)
    observed = spent.blocked + spent.free
    contention = spent.blocked / observed if observed else None
    width = max(0, min(_BAR, columns - 20))
    bar = "|" * round((contention or 0.0) * width)
    numbers = [f"stalls {after.stalls:.0f}"]
    if spent.switches is not None and observed:
        numbers.insert(0, f"switches {spent.switches / observed:.0f}/s")
    if after.waiting is not None:
        numbers.insert(0, f"waiting {after.waiting:.0f}")
    percent = "-" if contention is None else f"{contention:.0%}"
    return [f"contention {percent:>5} [{bar:<{width}}]", "   ".join(numbers)]


def table(found: Sequence[Row], columns: int) -> list[str]:
    """The heading, and a line for each row."""
    widest = max((len(row.thread) for row in found), default=0)
    width = max(len("THREAD"), min(widest, columns // 4))

    def line(share: str, seconds: str, thread: str, function: str) -> str:
        start = f"{share:>7} {seconds:>9}  {cut(clean(thread), width):<{width}}  "
        return start + cut(clean(function), columns - len(start))

    cells = ((f"{row.share:.1%}", f"{row.seconds:.2f}", row.thread, row.function) for row in found)
    return [line(*_TABLE, "THREAD", "FUNCTION"), *(line(*row) for row in cells)]


def body(before: Reading, after: Reading, notice: str, columns: int, children: Sequence[int] = ()) -> list[Line]:
    """What there is to say of an interval.

    Args:
        before: the reading that it began with.
        after: the one that it ended with.
        notice: is shown in place of a hold in progress, if not empty.
        columns: the terminal's.
        children: the processes whose GIL is not shown.
    """
    alarm = Line(notice) if notice else Line(stall(after), _ALARM)
    unseen = [Line(text) for text in textwrap.wrap(not_shown(children), columns)]
    heading, *holders = table(rows(before, after), columns)
    return [*map(Line, status(before, after, columns)), alarm, *unseen, Line(heading, _REVERSE), *map(Line, holders)]


def not_shown(children: Sequence[int]) -> str:
    """That child processes run Python, in words; empty where there are none."""
    if not children:
        return ""
    named = ", ".join(map(str, children[:_NAMED])) + (", …" if len(children) > _NAMED else "")
    return f"This is the GIL of one process. Not shown: its child processes that run Python, pid {named}"


def screen(title: tuple[str, str], shown: list[Line], output: Sequence[str], size: os.terminal_size) -> list[Line]:
    """All that is shown at one moment, in no more lines and columns than there are.

    Args:
        title: what is run, and what there is to say of it; the first is cut where there is no room for both.
        shown: the `body`, which leaves a third of the screen to the output if there is that much.
        output: what the program has written.
        size: the terminal's.
    """
    columns, height = size
    command, state = title
    room = max(0, columns - len(state) - 2)
    lines = [Line(f"{_shorten(clean(command), room):<{room}}  {state}"), *shown]
    if output:
        lines = lines[: height - min(len(output) + 1, height // 3)]
        room = height - len(lines) - 1
        lines += [Line(""), *(Line(_shorten(clean(text), columns)) for text in output[-room:] if room > 0)]
    return [Line(text[:columns], style) for text, style in lines[:height]]


def cut(text: str, width: int) -> str:
    """As much of the end of a name as there is room for: a function's own name is there."""
    return text if len(text) <= width else ("…" + text[len(text) - width + 1 :])[: max(0, width)]


def clean(text: str) -> str:
    """A line without what a terminal would obey."""
    if text.isprintable():
        return text
    # What a line had before it was begun anew, as progress bars do, is not seen on a terminal either.
    text = _ESCAPES.sub("", text).rstrip("\r").rpartition("\r")[2].expandtabs()
    return "".join(character if character.isprintable() else " " for character in text)


def reason(output: Sequence[str], columns: int) -> list[Line]:
    """Why there may be no observer, by the first lines of the program's output."""
    why = next((clean(line) for line in output if _REASON.match(line)), _HINT)
    return [Line(text) for text in textwrap.wrap(why, columns)]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else (text[: max(0, width - 1)] + "…")[: max(0, width)]


def run(command: Sequence[str], interval: float) -> int:
    """Run the command to its end, and return its exit code: 128 and the number of the signal where one ended it.

    Args:
        command: the program and its arguments.
        interval: seconds from one reading to the next.
    """
    if os.name != "posix":
        return _fail("it needs Linux", 1)
    if shutil.which(command[0]) is None:
        return _fail(f"{command[0]}: command not found, or not executable", 127)
    import fcntl

    process: subprocess.Popen[bytes] | None = None
    asked: list[float] = []

    def ask(number: int, _: Any) -> None:
        asked.append(time.monotonic())
        # Ctrl-C went to the program, too.
        if number == signal.SIGTERM and process:
            process.terminate()

    with _handled(ask, signal.SIGINT, signal.SIGTERM), tempfile.TemporaryFile() as output:
        # What is cut off at its beginning is to be written on at its end.
        fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)
        process = subprocess.Popen(instrument(command), env=_environment(), stdout=output, stderr=output)  # noqa: S603
        begun = time.monotonic()
        try:
            readings = _readings(process, interval, asked)
            last, children = _show(readings, " ".join(command), process.pid, output, asked)
            code = process.returncode if process.returncode >= 0 else 128 - process.returncode
            size = shutil.get_terminal_size()
            if last:
                shown = body(START, last._replace(waiting=None, stall=0.0), "", size.columns, children)
            else:
                shown = [Line("the observer gave no reading"), *reason(_first_lines(output), size.columns)]
            _print(screen((" ".join(command), f"exit code {code}  {_elapsed(begun)}"), shown, [], size))
        except BrokenPipeError:
            # As for `otel-gil top … | head`. What is still buffered must not be written at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        finally:
            process.kill()
            process.wait()
        if code:
            sys.stderr.write("".join(f"{clean(line)}\n" for line in _last_lines(output)[-_TAIL:]))
        return code


def _environment() -> dict[str, str]:
    return os.environ | {
        "OTEL_PYTHON_GIL_SAMPLER": "observer",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }


def _readings(process: subprocess.Popen[bytes], interval: float, asked: Sequence[float]) -> Iterator[Reading | None]:
    """A reading in each interval, until the program has ended; None where there is none. The first comes early."""
    pause, due = min(interval, _POLL), 0.0
    record: RecordFile | None = None
    ended = False
    while not ended:
        if (record is None or not record.alive) and (fresh := _find(process.pid)):
            if record:  # the program has started itself anew
                record.close()
            record = fresh
            reader = RecordReader(record, record.head.window, record.paths, time.monotonic())
        found = None
        if record:
            with suppress(OSError):
                found = reader.read(time.monotonic())
        if found:
            pause = interval
        if found or time.monotonic() >= due:
            yield reading_of(found) if found else None
            due = time.monotonic() + interval
        ended = _ended(process, pause, asked)
    if record:
        # What it knew in the end, also where its file is removed.
        with suppress(OSError):
            if found := reader.read(0.0):
                yield reading_of(found)
        record.close()


def _find(pid: int) -> RecordFile | None:
    """The record of a process; None where it has none."""
    mine = None
    for record in files.records():
        if record.head.pid == pid and mine is None:
            mine = record
        else:
            record.close()
    return mine


def _show(
    readings: Iterator[Reading | None], command: str, pid: int, output: IO[bytes], asked: Sequence[float]
) -> tuple[Reading | None, list[int]]:
    """Show the readings as they come, and return the last, and the last child processes that run Python."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    before, after = START, None
    children: list[int] = []
    begun = time.monotonic()
    with _full_screen() if terminal else nullcontext():
        for reading in readings:
            size = shutil.get_terminal_size()
            if reading:
                before, after = after or START, reading
            notice = "" if reading else "the observer does not answer; this is what it said last"
            if asked:
                notice = "waiting for the program to end; Ctrl-C kills it"
            children = running_python(pid) or children
            if after:
                shown = body(before, after, notice, size.columns, children)
            else:
                shown = [Line(notice if asked else "waiting for the observer …")]
                if time.monotonic() - begun >= _START_TIMEOUT:
                    shown += reason(_first_lines(output), size.columns)
            title = command, f"pid {pid}  {_elapsed(begun)}"
            if terminal:
                _draw(screen(title, shown, _last_lines(output), size), size)
            else:
                _print([*screen(title, shown, [], size), Line("")])
    return after, children


def _ended(process: subprocess.Popen[bytes], seconds: float, asked: Sequence[float]) -> bool:
    """Whether the program ends within so many seconds. It is killed if it was asked to twice, or too long ago."""
    end = time.monotonic() + seconds
    while True:
        now = time.monotonic()
        if len(asked) > 1 or (asked and now - asked[0] > _GRACE):
            process.kill()
        try:
            process.wait(max(0.0, min(_POLL, end - now)))
        except subprocess.TimeoutExpired:
            if now >= end:
                return False
        else:
            return True


@contextmanager
def _handled(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle these signals, but for those that are ignored from the start, as in the background of a shell."""
    previous = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number, handled in previous.items() if handled != signal.SIG_IGN]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, previous[number])


@contextmanager
def _full_screen() -> Iterator[None]:
    def suspend(*_: Any) -> None:
        # Past what is buffered: the signal may come while that is written.
        os.write(sys.stdout.fileno(), _LEAVE.encode())
        os.kill(os.getpid(), signal.SIGSTOP)
        os.write(sys.stdout.fileno(), _ENTER.encode())

    with _handled(suspend, signal.SIGTSTP):
        _write(_ENTER)
        try:
            yield
        finally:
            _write(_LEAVE)


def _draw(lines: Sequence[Line], size: os.terminal_size) -> None:
    # What is typed is echoed at the cursor: at the top, where it moves nothing.
    padded = [*lines, *[Line("")] * (size.lines - len(lines))]
    styled = (f"\x1b[{style}m{text}\x1b[m" if style and text else text for text, style in padded)
    _write("\x1b[H" + "\r\n".join(f"\x1b[K{text}" for text in styled) + "\x1b[H")


def _print(lines: Sequence[Line]) -> None:
    _write("".join(f"{line.text}\n" for line in lines))


def _write(text: str) -> None:
    # Names can have characters that the terminal has not.
    encoding = sys.stdout.encoding
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _first_lines(output: IO[bytes]) -> list[str]:
    return _lines(os.pread(output.fileno(), _READ, 0))


def _last_lines(output: IO[bytes]) -> list[str]:
    """The last lines; those before them are dropped where there are too many."""
    descriptor = output.fileno()
    size = os.fstat(descriptor).st_size
    read = os.pread(descriptor, _READ, max(0, size - _READ))
    if size > _KEPT:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, read)
    return _lines(read)


def _lines(output: bytes) -> list[str]:
    text = output.decode(errors="replace").removesuffix("\n")
    return text.split("\n") if text else []


def _elapsed(begun: float) -> str:
    return str(timedelta(seconds=int(time.monotonic() - begun)))


def _fail(reason: str, code: int) -> int:
    sys.stderr.write(f"otel-gil top: {reason}\n")
    return code
