"""What otel-gil is known to change in CPython's own tests, and why that is right.

The names are patterns of `fnmatch`. Of `EXPECTED` they are of a test or a file and its outcome:
"test.test_x.TestCase.test_y: failed".
"""

_WARNS = "CPython 3.12 and later warn on standard error where a process forks that has any other thread"
_DUMPS = "the dump is of all threads, and the test expects no other ones than its own"
_OTHERS = "it looks at threads that are not its own, too: it fails with a bare `threading.Thread` as well"

EXPECTED: dict[str, str] = {
    "test.test_threading.ThreadTests.test_main_thread_after_fork: failed": _WARNS,
    "test.test_threading.ThreadTests.test_native_id_after_fork: failed": _WARNS,
    "test_external_inspection: environment changed": (
        "the test sets asyncio's event loop policy, which regrtest sees only where asyncio was imported before, and "
        "opentelemetry.instrumentation imports it"
    ),
    **{
        f"test.test_external_inspection.TestGetStackTrace.test_{name}: *": _OTHERS
        for name in (
            *("async_awaited_by_skips_set_tombstones", "async_global_awaited_by"),
            *("remote_stack_trace", "self_trace"),  # of CPython 3.13, which look at the thread begun last
        )
    },
    **{
        f"test.test_faulthandler.FaultHandlerTests.test_{name}: failed": _DUMPS
        for name in (
            *("dump_traceback_later*", "dump_traceback_threads*", "enable_fd", "enable_file", "fatal_error*"),
            *("enable_without_c_stack", "gc", "gil_released", "read_null", "register_threads", "stack_overflow"),
            *("sigabrt", "sigbus", "sigfpe", "sigill", "sigsegv"),
        )
    },
}

NOT_RUN: dict[str, str] = {
    "test.test_capi.test_misc.InterpreterConfigTests.test_interp_init": (
        "it makes interpreters with a GIL of their own and the memory allocator of the main one, which crash beside any "
        "thread that runs meanwhile: with a bare `threading.Thread`, and without otel-gil, 3 of 4 times"
    ),
}
"""Tests that end the process, and with it all others of their file."""
