"""What otel-gil is known to change in CPython's own tests, and why that is right.

The names are patterns of `fnmatch`, for a test or a file and its outcome: "test.test_x.TestCase.test_y: failed".
"""

EXPECTED: dict[str, str] = {}
