"""Keeps a core busy without the GIL."""

import hashlib
import os

os.nice(10)  # others, who are measured beside it, need a core more
data = bytes(100_000_000)
print(0, flush=True)
while True:
    hashlib.sha256(data)
