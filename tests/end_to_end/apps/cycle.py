"""Holds the GIL for argv[1] seconds, leaves it for argv[2], and so on, with the truth on a line after each."""

from __future__ import annotations

import sys
import time

from .workload import Workload

hold, gap = map(float, sys.argv[1:])
workload = Workload()
while True:
    workload.hold(hold)
    time.sleep(gap)
    print(workload.held / workload.elapsed, flush=True)
