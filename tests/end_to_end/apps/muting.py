"""Does nothing, and is measured until it gets SIGUSR1."""

import signal

from otel_gil import GilInstrumentor

signal.signal(signal.SIGUSR1, lambda *_: GilInstrumentor().uninstrument())
print(0, flush=True)
while True:
    signal.pause()
