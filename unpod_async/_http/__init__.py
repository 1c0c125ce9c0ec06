"""Send one request to the API reliably: transport, retries, rate limits and closing.

Modules from the bottom up: `secret`, `validate`, `headers`, `extra_headers`, `responses`, `endpoints` and
`timeouts` (no I/O); `retry`, `settings`, `stats` and `limits` (the decisions); `lifecycle`, `sessions`,
`transport_errors` and `transport` (HTTP with aiohttp); `executor`, which sends a request under the limits and
retries it.
"""

from __future__ import annotations

from unpod_async._http import endpoints
from unpod_async._http.endpoints import (
    Endpoint,
    TimeWindow,
    agent_tasks,
    organizations,
    run_tasks,
    runs,
    space_tasks,
    unix_bounds,
)
from unpod_async._http.executor import Reader, RequestExecutor
from unpod_async._http.extra_headers import ExtraHeaders, merge_headers
from unpod_async._http.headers import is_plain
from unpod_async._http.lifecycle import GRACE, ClientLifecycle
from unpod_async._http.limits import AFTER_PROBE, RateGate, RequestLimiter
from unpod_async._http.responses import (
    Request,
    Response,
    classify,
    classify_body,
    message_of,
    parse_http_date,
    retry_after,
    safe_headers,
)
from unpod_async._http.retry import (
    DEFAULT_RETRY,
    RetryBudget,
    RetryPolicy,
    RetrySchedule,
    backoff_delays,
    delay_before_retry,
    has_unknown_outcome,
    is_internal_error,
    is_retryable_create,
    is_retryable_get,
    is_retryable_write,
    policy_in_effect,
    retry_after_of,
    without_retries,
)
from unpod_async._http.secret import Secret
from unpod_async._http.sessions import HEAD_LIMITS, KEEP_ALIVE, SentFlag, is_mocked
from unpod_async._http.settings import Settings, request_options, resolve, resolve_proxy
from unpod_async._http.stats import Stats
from unpod_async._http.timeouts import AttemptTimeout, AttemptTimer, Deadline
from unpod_async._http.transport import CONNECT, SILENCE, TokenProvider, Transport, decompress_with_isal
from unpod_async._http.transport_errors import (
    MOCK_HINT,
    MockFailed,
    describe_fault,
    ignored_proxy_variable,
    send_once,
)
from unpod_async._http.validate import (
    MAX_INTEGER,
    check_aware_datetime,
    check_bool,
    check_choice,
    check_id,
    check_ids,
    check_instance,
    check_integer,
    check_number,
    check_path,
    check_query_text,
    check_run_id,
    check_run_ids,
    check_seconds,
    check_str,
    check_str_or_list,
)

__all__ = [
    "AFTER_PROBE",
    "CONNECT",
    "DEFAULT_RETRY",
    "GRACE",
    "HEAD_LIMITS",
    "KEEP_ALIVE",
    "MAX_INTEGER",
    "MOCK_HINT",
    "SILENCE",
    "AttemptTimeout",
    "AttemptTimer",
    "ClientLifecycle",
    "Deadline",
    "Endpoint",
    "ExtraHeaders",
    "MockFailed",
    "RateGate",
    "Reader",
    "Request",
    "RequestExecutor",
    "RequestLimiter",
    "Response",
    "RetryBudget",
    "RetryPolicy",
    "RetrySchedule",
    "Secret",
    "SentFlag",
    "Settings",
    "Stats",
    "TimeWindow",
    "TokenProvider",
    "Transport",
    "agent_tasks",
    "backoff_delays",
    "check_aware_datetime",
    "check_bool",
    "check_choice",
    "check_id",
    "check_ids",
    "check_instance",
    "check_integer",
    "check_number",
    "check_path",
    "check_query_text",
    "check_run_id",
    "check_run_ids",
    "check_seconds",
    "check_str",
    "check_str_or_list",
    "classify",
    "classify_body",
    "decompress_with_isal",
    "delay_before_retry",
    "describe_fault",
    "endpoints",
    "has_unknown_outcome",
    "ignored_proxy_variable",
    "is_internal_error",
    "is_mocked",
    "is_plain",
    "is_retryable_create",
    "is_retryable_get",
    "is_retryable_write",
    "merge_headers",
    "message_of",
    "organizations",
    "parse_http_date",
    "policy_in_effect",
    "request_options",
    "resolve",
    "resolve_proxy",
    "retry_after",
    "retry_after_of",
    "run_tasks",
    "runs",
    "safe_headers",
    "send_once",
    "space_tasks",
    "unix_bounds",
    "without_retries",
]
