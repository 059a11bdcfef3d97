# What each interpreter runs when it starts. MODE is written above it.
# An SDK without threads of its own: else its effects would hide ours.


def _start() -> None:
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    if MODE == "gil":  # type: ignore[name-defined]
        from otel_gil import GilInstrumentor

        GilInstrumentor().instrument()


try:
    _start()
except Exception:  # as where an isolated subinterpreter can't import the SDK
    pass
