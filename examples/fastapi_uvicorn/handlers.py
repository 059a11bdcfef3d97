"""Four handlers that keep a request, and a fifth that should not have to wait for them."""

import hashlib
import json
import time

from fastapi import FastAPI

ORDERS = json.dumps([{"id": i, "customer": f"customer {i}", "items": ["a", "b", "c"]} for i in range(100_000)])
FILE = bytes(100_000_000)

app = FastAPI()


@app.get("/")
async def health() -> str:
    """Answer at once, if the event loop lets it."""
    return "ok"


@app.get("/python")
async def python() -> int:
    """Compute in the event loop: holds up the loop, and keeps the GIL but for a moment every 5 ms."""
    return sum(i * i % 97 for i in range(3_000_000))


@app.get("/sleep")
async def sleep() -> None:
    """Wait in the event loop, as with a database driver that is not asynchronous: holds up the loop, not the GIL."""
    time.sleep(0.3)


@app.get("/json")
def parse() -> int:
    """Parse a large document in a thread: holds up the loop all the same, as C code that never gives the GIL up."""
    return len(json.loads(ORDERS))


@app.get("/hash")
def digest() -> str:
    """Hash a file in a thread: C code that works without the GIL holds up nobody."""
    return hashlib.sha256(FILE).hexdigest()
