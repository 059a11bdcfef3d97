"""The recorder's C under sanitizers, given an interpreter that makes no sense, and in a process that is hard on it.

    python -m tests.native [--fuzz] [--asan] [--tsan] [--seconds N] [--seed N]

Without an option it does all of it, about a minute and a half, with the interpreter that runs it:

* fuzz: fuzz.c, built with AddressSanitizer and UBSan, once with memory of its own and once with the recorder's memory.c.
* asan: the extension, built with both, in stress.py.
* tsan: the extension, built with ThreadSanitizer, in stress.py, but without forks, of whose children it knows nothing.

CPython itself is not built with them: what it does is seen where it calls the C library. Leaks are not looked for, as
CPython leaves at its end what it has; the recorder allocates nothing.
"""
