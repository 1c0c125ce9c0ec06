"""Traces and metrics with OpenTelemetry, made from the events of requests.

Modules: `tracing` (spans) and `metrics`. Both import OpenTelemetry, so a client imports this package only
when it is asked for telemetry.
"""

from __future__ import annotations

from unpod_async._integrations.otel.tracing import connect

__all__ = ["connect"]
