"""Does nothing until its standard input is closed."""

import sys

print(0, flush=True)
sys.stdin.read()
