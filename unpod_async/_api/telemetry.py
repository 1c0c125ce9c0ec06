"""The argument `opentelemetry` of a client."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unpod_async._http import Telemetry
from unpod_async._version import install_command
from unpod_async.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetry", "create_telemetry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTelemetry:
    """Where the traces and metrics of a client go.

    Pass it as `UnpodClient(opentelemetry=OpenTelemetry(tracer_provider=...))`. With `opentelemetry=True`,
    both go to the global providers.

    Attributes:
        tracer_provider: a `TracerProvider` of OpenTelemetry; None is the global one.
        meter_provider: a `MeterProvider` of OpenTelemetry; None is the global one.
    """

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None


def create_telemetry(argument: object, base_url: str) -> Telemetry | None:
    """Return the telemetry that the argument `opentelemetry` asks for, or None.

    Raises:
        ConfigurationError: the argument is not accepted, or OpenTelemetry cannot be imported.
    """
    if argument is False:
        return None
    if argument is True:
        argument = OpenTelemetry()
    if not isinstance(argument, OpenTelemetry):
        raise ConfigurationError(
            f"opentelemetry must be a bool or an OpenTelemetry, not {type(argument).__name__}",
            argument="opentelemetry",
            hint="pass opentelemetry=True to use the global providers",
        )
    try:
        otel = importlib.import_module("unpod_async._integrations.otel")
    except ImportError as error:
        reason = str(error)
    else:
        telemetry: Telemetry = otel.connect(argument, base_url)
        return telemetry
    raise ConfigurationError(
        f"opentelemetry needs opentelemetry-api, which cannot be imported: {reason}",
        argument="opentelemetry",
        hint=install_command("otel"),
    )
