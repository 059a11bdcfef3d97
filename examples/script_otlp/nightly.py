"""A nightly job: threads that wait for each other to parse, then threads that do not, to compress."""

import json
import signal
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

ORDERS = json.dumps([{"id": i, "customer": f"customer {i}", "price": i % 97} for i in range(20_000)])
FILES = [ORDERS] * 40


def total(orders: str) -> int:
    """Parse, which needs the GIL."""
    return sum(order["price"] for order in json.loads(orders))


def pack(orders: str) -> int:
    """Compress, which does not."""
    return len(zlib.compress(orders.encode(), 9))


def run(name: str, work: Callable[[str], int]) -> None:
    """Do the work for all files, two at a time."""
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        result = sum(pool.map(work, FILES))
    print(f"{name}: {time.monotonic() - start:.1f} s, {result}", flush=True)


def end(number: int, _: FrameType | None) -> None:
    """End by way of exit, where the last export is done: by itself SIGTERM would end the process without it."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    run("parsing", total)
    run("packing", pack)
