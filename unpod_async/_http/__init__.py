"""_http"""

from __future__ import annotations

from unpod_async._http import endpoints
from unpod_async._http.admission import RequestLimiter, Slots
from unpod_async._http.deadline import Deadline
from unpod_async._http.endpoints import (
    Endpoint,
    TimeWindow,
    agent_tasks,
    check_id,
    organizations,
    run_tasks,
    runs,
    space_tasks,
    unix_bounds,
)
from unpod_async._http.executor import Reader, RequestExecutor
from unpod_async._http.lifecycle import GRACE, ClientLifecycle
from unpod_async._http.options import Options, not_negative_option, options_of, positive_option, whole_option
from unpod_async._http.rate_gate import AFTER_THE_PROBE, RateGate
from unpod_async._http.read_timeout import AttemptTimeout
from unpod_async._http.responses import (
    Request,
    Response,
    classify,
    classify_inside,
    message_of,
    retry_after,
    shown_headers,
)
from unpod_async._http.retry import (
    DEFAULT_RETRY,
    RetryPolicy,
    backoff_delays,
    is_retryable_create,
    is_retryable_get,
    retry_after_of,
    wait_for,
)
from unpod_async._http.retry_budget import RetryBudget
from unpod_async._http.secret import Secret
from unpod_async._http.sessions import KEEP_ALIVE, SentFlag
from unpod_async._http.settings import Settings, resolve
from unpod_async._http.stats import Stats
from unpod_async._http.transport import CONNECT, SILENCE, TokenProvider, Transport

__all__ = [
    "AFTER_THE_PROBE",
    "CONNECT",
    "DEFAULT_RETRY",
    "GRACE",
    "KEEP_ALIVE",
    "SILENCE",
    "AttemptTimeout",
    "ClientLifecycle",
    "Deadline",
    "Endpoint",
    "Options",
    "RateGate",
    "Reader",
    "Request",
    "RequestExecutor",
    "RequestLimiter",
    "Response",
    "RetryBudget",
    "RetryPolicy",
    "Secret",
    "SentFlag",
    "Settings",
    "Slots",
    "Stats",
    "TimeWindow",
    "TokenProvider",
    "Transport",
    "agent_tasks",
    "backoff_delays",
    "check_id",
    "classify",
    "classify_inside",
    "endpoints",
    "is_retryable_create",
    "is_retryable_get",
    "message_of",
    "not_negative_option",
    "options_of",
    "organizations",
    "positive_option",
    "resolve",
    "retry_after",
    "retry_after_of",
    "run_tasks",
    "runs",
    "shown_headers",
    "space_tasks",
    "unix_bounds",
    "wait_for",
    "whole_option",
]
