"""Pure Python that never rests: whoever asks for the GIL has to wait for it.

But for the time in which a busy machine leaves it no core: the truth is from the share of a core it had, on a line
every second, to 1.
"""

import time

started = now = time.monotonic()
while True:
    print(time.thread_time() / (now - started) if now > started else 0, flush=True)
    due = now + 1
    while now < due:
        now = time.monotonic()
