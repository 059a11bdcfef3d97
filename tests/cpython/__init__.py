"""CPython's own tests, of the interpreter in use: as they are, with the SDK alone, and with otel-gil.

`make cpython-tests` runs them in three environments that differ only in what each interpreter does when it starts, also
those that the tests start themselves, and reports what otel-gil changes. What it is expected to change is in
`expected.py`, with the reason; anything else is an error.
"""
