"""GIL contention as OpenTelemetry metrics that are right.

Usage
-----

.. code:: console

    $ pip install otel-gil opentelemetry-distro opentelemetry-exporter-otlp
    $ opentelemetry-instrument python app.py

or in code:

.. code:: python

    from otel_gil import GilInstrumentor

    GilInstrumentor().instrument()

Metrics
-------

``cpython.gil.contention``
    Gauge, in [0, 1]: share of the last ten seconds in which a thread that asked for the GIL had to wait for it.
``cpython.gil.time``
    Counter, seconds, by ``cpython.gil.state``: ``blocked``, as above, and ``free``. Both together are the time
    observed.
``cpython.gil.wait.duration``
    Histogram, seconds: how long a thread that asks for the GIL at a random moment waits for it.

``otel_gil.environment_variables`` lists what can be configured.
"""

from otel_gil._instrumentor import GilInstrumentor
from otel_gil.version import __version__

__all__ = ["GilInstrumentor", "__version__"]
