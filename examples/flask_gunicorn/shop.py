"""A page that waits for a database, as most do, and a report made in Python, for which all other threads wait."""

import os
import time

from flask import Flask

app = Flask(__name__)


@app.get("/page")
def page() -> dict[str, int]:
    """Wait for a database."""
    time.sleep(0.02)
    return {"worker": os.getpid()}


@app.get("/report")
def report() -> dict[str, int]:
    """Add up all orders."""
    total = sum(price * number % 97 for price in range(1_000) for number in range(1_000))
    return {"worker": os.getpid(), "total": total}
