"""The version of otel-gil."""

__version__ = "0.1.0"
