"""Traces and metrics with OpenTelemetry, made from the events of requests.

`options` is what users pass to a client. `tracing` and `metrics` need the extra `otel`, so they are imported
on first use.
"""

from __future__ import annotations

from unpod_async._telemetry.options import OpenTelemetry, create_telemetry

__all__ = ["OpenTelemetry", "create_telemetry"]
