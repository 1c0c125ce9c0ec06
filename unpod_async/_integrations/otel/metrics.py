"""The metrics of a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.util.types import AttributeValue

__all__ = ["Instruments"]

# The boundaries that OpenTelemetry's conventions give for http.client.request.duration.
_ATTEMPT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# Retries and delays requested by the server take longer than an attempt.
_LONG_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Instruments:
    """The metrics of a client.

    Attributes:
        request_duration: seconds of each attempt, as OpenTelemetry's conventions define them.
        operation_duration: seconds of each request with its attempts and waits.
        wait_duration: seconds of each wait.
    """

    def __init__(self, meter: Meter) -> None:
        self.request_duration: Final[Histogram] = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_ATTEMPT_SECONDS,
        )
        self.operation_duration: Final[Histogram] = meter.create_histogram(
            "unpod.client.operation.duration",
            "s",
            "Duration of requests with all their attempts and waits.",
            explicit_bucket_boundaries_advisory=_LONG_SECONDS,
        )
        self.wait_duration: Final[Histogram] = meter.create_histogram(
            "unpod.client.wait.duration",
            "s",
            "Duration of waits before requests and retries.",
            explicit_bucket_boundaries_advisory=_LONG_SECONDS,
        )
        self._rows: Final[Counter] = meter.create_counter("unpod.client.rows", "{row}", "Rows of listings.")

    def count_rows(self, attributes: Mapping[str, AttributeValue], rows: Mapping[str, int]) -> None:
        """Count the rows of a page by what happened to them."""
        for outcome, count in rows.items():
            if count:
                self._rows.add(count, {**attributes, "unpod.row.outcome": outcome})
