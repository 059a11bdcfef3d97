"""Has a metric of its own, and does nothing until its standard input is closed."""

import sys

from opentelemetry.metrics import get_meter

get_meter("app").create_counter("app.starts").add(1)
sys.stdin.read()
