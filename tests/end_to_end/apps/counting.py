"""Has a metric of its own, computes for a moment, and does nothing until its standard input is closed."""

import sys
import time

from opentelemetry.metrics import get_meter

get_meter("app").create_counter("app.starts").add(1)
end = time.monotonic() + 0.5
while time.monotonic() < end:  # so that somebody is seen to hold the GIL
    pass
sys.stdin.read()
