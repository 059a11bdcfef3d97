"""The environment variables of otel-gil. Durations are in milliseconds, as in the rest of OpenTelemetry."""

OTEL_PYTHON_GIL_SAMPLER = "OTEL_PYTHON_GIL_SAMPLER"
"""
.. envvar:: OTEL_PYTHON_GIL_SAMPLER

How the GIL is measured: ``auto``, ``observer``, ``poisson``, ``gilknocker`` or ``none``. Default: ``auto``.
"""

OTEL_PYTHON_GIL_SAMPLING_INTERVAL = "OTEL_PYTHON_GIL_SAMPLING_INTERVAL"
"""
.. envvar:: OTEL_PYTHON_GIL_SAMPLING_INTERVAL

Mean milliseconds between two samples, 1 to 1000. While they all see the same it is four times as long for ``observer``,
three times for ``poisson``. Default: 12 for ``observer``, 20 for ``poisson``.
"""

OTEL_PYTHON_GIL_CONTENTION_WINDOW = "OTEL_PYTHON_GIL_CONTENTION_WINDOW"
"""
.. envvar:: OTEL_PYTHON_GIL_CONTENTION_WINDOW

Milliseconds over which ``cpython.gil.contention`` is taken, 1000 to 3600000. Default: 10000.
"""

OTEL_PYTHON_GIL_HOLDERS = "OTEL_PYTHON_GIL_HOLDERS"
"""
.. envvar:: OTEL_PYTHON_GIL_HOLDERS

What the ``observer`` gives ``cpython.gil.held.time`` and ``cpython.gil.wait.time`` by: ``function`` (and thread),
``thread``, or ``none`` for neither. Default: ``function``.
"""

OTEL_PYTHON_GIL_STALL_THRESHOLD = "OTEL_PYTHON_GIL_STALL_THRESHOLD"
"""
.. envvar:: OTEL_PYTHON_GIL_STALL_THRESHOLD

Milliseconds for which one hold of the GIL must have lasted that the ``observer`` takes for a stall, 100 to 3600000.
Default: 1000.
"""

OTEL_PYTHON_GIL_STALL_STDERR = "OTEL_PYTHON_GIL_STALL_STDERR"
"""
.. envvar:: OTEL_PYTHON_GIL_STALL_STDERR

``true`` to have the ``observer`` write a stall, with its stack, to standard error while it lasts. Default: ``false``.
"""
