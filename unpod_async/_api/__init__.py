"""The public client: `UnpodClient` and its resources.

Modules: `client`, `organizations`, `spaces`, `agents`, `runs` (also watching and waiting), `tasks` (also
creating calls), `call_logs`, `exporting`, `requests` (any other endpoint), and `telemetry` (the argument
`opentelemetry`).
"""

from unpod_async._api.agents import Agents
from unpod_async._api.call_logs import CallLogs
from unpod_async._api.client import UnpodClient
from unpod_async._api.organizations import Organizations
from unpod_async._api.requests import RawResponse
from unpod_async._api.runs import Runs
from unpod_async._api.spaces import Spaces
from unpod_async._api.tasks import Tasks
from unpod_async._api.telemetry import OpenTelemetry

__all__ = [
    "Agents",
    "CallLogs",
    "OpenTelemetry",
    "Organizations",
    "RawResponse",
    "Runs",
    "Spaces",
    "Tasks",
    "UnpodClient",
]
