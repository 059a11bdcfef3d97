"""What otel-gil is known to change in CPython's own tests, and why that is right. The names are patterns of `fnmatch`."""

EXPECTED: dict[str, str] = {}
