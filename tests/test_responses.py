"""Status, headers and body into an exception: which class, and what its text gives away."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._http import Request, Response, classify, classify_body, retry_after, safe_headers
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ServerError,
    UpstreamError,
)

REQUEST = Request("GET", "/spaces/S1/tasks/", "Token")
JSON = {"content-type": "application/json"}
PAGE = b"<!DOCTYPE html>\n<html><head><title>Not Found</title></head><h1>secret internals</h1></html>"
# Made up: no machine has this path.
TRACEBACK = (
    'Traceback (most recent call last):\n  File "/srv/app/views.py", line 3, in get\n    raise E(3)\nE: 3'
)
DATE = "Thu, 15 Jan 2026 11:00:00 GMT"
DATE_AS_UNIX = 1768474800


def answered(
    status: int, body: object = b"", headers: dict[str, str] | None = None, request: Request = REQUEST
) -> APIError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = classify(request, Response(status, headers or {}, content))
    assert error is not None
    return error


# --- the class ---------------------------------------------------------------------------------------------

FIELDS = {"context": ["This field is required."]}


@each_row(
    ("body", "kind"),
    [
        ({"status_code": 206, "message": "Invalid Space Token", "data": {}}, RefusedError),
        ({"message": "m"}, RefusedError),
        ({"message": "m", "data": {}, "errors": None}, RefusedError),
        ({"message": "m", "data": None, "errors": {}}, RefusedError),
        ({"message": "m", "data": [], "errors": []}, RefusedError),
        # `detail` is shown, but only `errors` decides.
        ({"message": "m", "data": {"detail": "role too low"}}, RefusedError),
        ({"message": "m", "data": {"errors": FIELDS}, "errors": FIELDS}, InvalidRequestError),
        ({"message": "m", "errors": FIELDS}, InvalidRequestError),
        ({"message": "m", "data": {"errors": FIELDS}}, InvalidRequestError),
        ({"message": "m", "errors": ["one", "two"]}, InvalidRequestError),
        ({"message": "m", "data": {"errors": "boom"}, "errors": "boom"}, UpstreamError),
        ({"message": "m", "data": {"errors": "boom"}}, UpstreamError),
        # What str() makes of many a network error.
        ({"message": "m", "data": {"errors": ""}, "errors": ""}, UpstreamError),
        (PAGE, UpstreamError),
        (b"", UpstreamError),
        (b"not json", UpstreamError),
        (b"[]", UpstreamError),
        (b'{"errors": NaN}', UpstreamError),
        (b'{"message": "\xff"}', UpstreamError),
        (b"[" * 100_000, UpstreamError),
    ],
    ids=str,
)
def test_what_a_206_is(body: object, kind: type[APIError]) -> None:
    error = answered(206, body)
    assert type(error) is kind
    assert error.status == 206


def test_the_errors_of_the_envelope_precede_those_inside_it() -> None:
    inner = {"documents": ["Too many."]}
    assert answered(400, {"message": "m", "errors": FIELDS, "data": {"errors": inner}}).errors == FIELDS
    assert answered(400, {"message": "m", "data": {"errors": inner}}).errors == inner


@each_row("body", [b"", PAGE, TRACEBACK.encode(), {"message": "m"}, {"errors": "x"}], ids=str)
@each_row(
    ("status", "kind"),
    [
        (301, APIError),
        (302, APIError),
        (304, APIError),
        (308, APIError),
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (402, APIError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, APIError),
        (406, APIError),
        (409, APIError),
        (415, APIError),
        (422, InvalidRequestError),
        (429, RateLimitedError),
        (431, APIError),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (599, ServerError),
    ],
)
def test_the_status_decides_whatever_the_body_is(
    status: int, kind: type[APIError], body: str | bytes | dict[str, Any]
) -> None:
    error = answered(status, body)
    assert type(error) is kind
    assert error.status == status
    assert f"answered {status}: " in str(error)


@pytest.mark.parametrize("status", [200, 201])
def test_success_is_no_error(status: int) -> None:
    assert classify(REQUEST, Response(status, {}, b'{"errors": "ignored"}')) is None


@each_row("language", ["Token no válido.", "अमान्य टोकन।", "Not found", "Invalid token.", ""])
@each_row(
    ("status", "more", "kind"),
    [
        (206, {}, RefusedError),
        (206, {"errors": "x"}, UpstreamError),
        (401, {}, AuthenticationError),
        (404, {}, NotFoundError),
        (500, {}, ServerError),
    ],
)
def test_no_message_decides_anything(
    language: str, status: int, more: dict[str, str], kind: type[APIError]
) -> None:
    error = answered(status, {"message": language, **more})
    assert type(error) is kind
    assert error.message == language


# --- an error inside a 200 ---------------------------------------------------------------------------------


@each_row(
    ("status", "more", "kind"),
    [
        (206, {"data": {}}, RefusedError),
        (206, {"errors": "boom"}, UpstreamError),
        (206, {"errors": FIELDS}, InvalidRequestError),
        (300, {}, APIError),
        (301, {}, APIError),
        (401, {}, AuthenticationError),
        (404, {"data": []}, NotFoundError),
        (500, {}, ServerError),
        (599, {}, ServerError),
    ],
)
def test_a_200_whose_body_states_an_error(status: int, more: dict[str, Any], kind: type[APIError]) -> None:
    body = {"status_code": status, "message": "No", **more}
    response = Response(200, JSON, json.dumps(body).encode())
    assert classify(REQUEST, response) is None
    error = classify_body(REQUEST, response)
    assert type(error) is kind
    assert error.status == status
    assert f"answered {status}: No" in str(error)


@each_row("stated", [200, 201, 204, None, "404", True, 404.0, 0, -1, 100, 299, 600, 10**30, [404]])
def test_a_200_whose_body_states_none(stated: object) -> None:
    assert classify_body(REQUEST, Response(200, JSON, json.dumps({"status_code": stated}).encode())) is None


@each_row("body", [b"", b"[]", b"null", b"{", PAGE, b'{"status_code": 404, "x": NaN}'])
def test_a_200_whose_body_states_nothing(body: bytes) -> None:
    assert classify_body(REQUEST, Response(200, {}, body)) is None


# --- the text ----------------------------------------------------------------------------------------------


def test_the_text_says_what_was_asked_and_answered() -> None:
    error = answered(422, {"message": "Task Creation Failed", "errors": {"detail": [{"loc": ["a", 0]}]}})
    assert str(error) == (
        'GET /spaces/S1/tasks/ answered 422: Task Creation Failed ({"detail":[{"loc":["a",0]}]})'
    )
    assert (error.method, error.path) == ("GET", "/spaces/S1/tasks/")
    assert error.message == "Task Creation Failed"
    assert error.errors == {"detail": [{"loc": ["a", 0]}]}


def test_the_text_of_broken_json_is_in_detail() -> None:
    error = answered(400, {"message": "Error", "data": {"detail": "JSON parse error"}})
    assert error.errors == "JSON parse error"
    assert str(error).endswith("answered 400: Error (JSON parse error)")


@each_row(
    ("body", "message"),
    [
        ({"message": "m", "error": "e"}, "m"),
        ({"detail": "d"}, "d"),
        ({"error": "e"}, "e"),
        ({"error": {"code": "rate_limit_exceeded", "message": "Slow down"}}, "Slow down"),
        ({"message": {"message": "inner"}}, "inner"),
        ({"message": "", "detail": "d"}, "d"),
        ({"message": None, "detail": 5, "error": ["x"]}, ""),
        ({}, ""),
    ],
)
def test_where_the_message_is(body: object, message: str) -> None:
    assert answered(403, body).message == message


@each_row(
    ("status", "body", "hint"),
    [
        (206, {"message": "Invalid Space Token", "data": {}}, "the space may not exist, belong to another"),
        (403, {"message": "no"}, "the account of the token needs a role there"),
        (404, {"message": "Agent not found"}, "check the handle or id and org_handle"),
    ],
)
def test_an_error_of_known_cause_has_a_hint(status: int, body: object, hint: str) -> None:
    error = answered(status, body)
    assert (error.hint or "").startswith(hint)
    assert len(f"hint: {error.hint}") <= 80


@pytest.mark.parametrize("status", [400, 409, 422, 429, 500])
def test_an_error_of_unknown_cause_has_no_hint(status: int) -> None:
    assert answered(status, {"message": "no"}).hint is None


@each_row(
    ("scheme", "challenge", "hint"),
    [
        (
            "Token",
            "Token",
            "check that the API key is complete and not expired;\na JWT needs auth_scheme='JWT'",
        ),
        ("Token", "", "check that the API key is complete and not expired;\na JWT needs auth_scheme='JWT'"),
        # The views of spaces and organizations.
        ("Token", 'JWT realm="api"', "the server asks for a JWT here: pass one with auth_scheme='JWT'"),
        ("token", "bearer", "the server asks for a JWT here: pass one with auth_scheme='JWT'"),
        ("JWT", "Token", "check that the token is complete; an API key needs auth_scheme='Token'"),
        (
            "Bearer",
            'JWT realm="api"',
            "check that the token is complete; an API key needs auth_scheme='Token'",
        ),
    ],
)
def test_the_hint_of_a_401_names_what_helps_and_not_what_was_sent(
    scheme: str, challenge: str, hint: str
) -> None:
    headers = {"www-authenticate": challenge} if challenge else {}
    error = answered(401, {"message": "Invalid token."}, headers, Request("GET", "/spaces/", scheme))
    assert error.hint == hint


@each_row(
    ("status", "expiry", "scheme", "said", "date"),
    [
        (401, DATE_AS_UNIX - 1, "JWT", "a JWT that expired at 2026-01-15T10:59:59Z", DATE),
        (401, DATE_AS_UNIX, "Token", "a JWT that expired at 2026-01-15T11:00:00Z", DATE),
        (403, DATE_AS_UNIX, "Bearer", "a JWT that expired at 2026-01-15T11:00:00Z", DATE),
        (401, 1000, "JWT", "a JWT that expired at 1970-01-01T00:16:40Z", ""),  # by the clock of this machine
        (401, 1, "JWT", "a JWT that expired at 1970-01-01T00:00:01Z", DATE),
        (401, 0, "JWT", "a JWT that expired: use", DATE),
        (401, -5, "JWT", "a JWT that expired: use", DATE),
        (401, DATE_AS_UNIX + 1, "JWT", "that this server issued it", DATE),
        (401, math.inf, "bearer", "that this server issued it", DATE),
        (401, math.inf, "Token", "the token is a JWT: use auth_scheme='JWT' or 'Bearer'", DATE),
        (401, None, "JWT", "an API key needs auth_scheme='Token'", DATE),
    ],
)
def test_the_error_of_a_jwt_suggests_a_scheme_only_if_that_can_help(
    status: int, expiry: float | None, scheme: str, said: str, date: str
) -> None:
    request = Request("GET", "/spaces/", scheme, expiry)
    hint = answered(status, {"message": "no"}, {"date": date, "www-authenticate": "JWT"}, request).hint or ""
    assert said in hint
    assert all(len("hint: " + line) <= 80 for line in hint.splitlines())
    assert ("auth_scheme" in hint) == ("auth_scheme" in said)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_expired_jwt_explains_no_other_error(status: int) -> None:
    request = Request("GET", "/", "JWT", DATE_AS_UNIX - 1)
    assert "expired" not in (answered(status, {"message": "no"}, {"date": DATE}, request).hint or "")


def test_a_403_suggests_no_other_token_unless_it_expired() -> None:
    for expiry in (None, math.inf, DATE_AS_UNIX + 1):
        request = Request("GET", "/", "JWT", expiry)
        assert "ask an administrator" in (
            answered(403, {"message": "no"}, {"date": DATE}, request).hint or ""
        )


def test_a_404_with_a_page_means_a_wrong_address() -> None:
    error = answered(404, PAGE)
    assert "titled 'Not Found'" in str(error)
    assert "base_url" in str(error)
    assert "secret internals" not in str(error)
    assert "base_url" in str(answered(404, b"\xef\xbb\xbf\r\n" + PAGE))
    assert "base_url" not in str(answered(404, {"message": "Agent not found"}))


@each_row(
    ("location", "shown"),
    [
        ("/api/v2/platform/spaces/S1/tasks/", "/api/v2/platform/spaces/S1/tasks/"),
        ("https://other.example/login", "https://other.example/login"),
        ("https://user:pw@other.example:8443/a?key=pw#pw", "https://other.example:8443/a"),
        ("//user:pw@other.example/a", "//other.example/a"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("/login?next=pw", "/login"),
        ("https:/user:pw@host/", "an unreadable address"),
        ("user:pw@host/", "an unreadable address"),
        ("us_er:pw@host/", "an unreadable address"),  # without a scheme
        ("http://[bad", "an unreadable address"),
        ("?token=pw", "nowhere"),
        ("", "nowhere"),
    ],
)
def test_a_redirect_names_its_target_and_no_secret(location: str, shown: str) -> None:
    error = answered(301, b"", {"location": location})
    text = str(error)
    assert f"redirects are not followed, such as this one to {shown}" in text
    assert "pw" not in text
    assert error.headers == {}


def test_a_redirect_cannot_fill_the_text() -> None:
    hint = answered(302, b"", {"location": "/\u202e\x1b[31m" + "a" * 10_000}).hint
    assert hint is not None
    assert len(hint) < 400
    assert hint.isprintable()


@each_row(
    "pasted",
    [
        PAGE.decode(),
        "  \n" + PAGE.decode(),
        "\ufeff" + PAGE.decode(),
        "<!-- made by nginx --><html><title>Not Found</title><h1>secret internals</h1></html>",
        "<HTML><TITLE>Not Found</TITLE><p>secret internals",
        "<center><h1>secret internals</h1></center>",
        TRACEBACK,
        "Task failed: " + TRACEBACK,
        "upstream said: " + PAGE.decode(),
    ],
)
@each_row(
    "placed",
    [
        lambda text: text.encode(),
        lambda text: {"message": text},
        lambda text: {"message": "m", "errors": text},
        lambda text: {"message": "m", "data": {"errors": text}},
        lambda text: {"message": "m", "errors": {"detail": text}},
        lambda text: {"message": "m", "errors": {"a": [{"b": text}]}},
        lambda text: {"message": "m", "errors": {text: 1}},
    ],
    ids=["body", "message", "errors", "data.errors", "field", "deep", "name"],
)
def test_pages_and_tracebacks_are_summarised(placed: Any, pasted: str) -> None:
    text = str(answered(500, placed(pasted)))
    for internals in ("<", "secret internals", "/srv/app", "raise E", "most recent"):
        assert internals not in text
    # A plain body is told by its first line only.
    assert "an HTML page" in text or "a traceback" in text or "text that starts 'Task failed" in text
    assert len(text) < 400


def test_what_stands_before_a_page_is_kept() -> None:
    error = answered(206, {"message": "m", "errors": "upstream said: " + PAGE.decode()})
    assert str(error).endswith("m (upstream said: an HTML page titled 'Not Found')")


def test_less_than_is_no_page() -> None:
    said = "page must be < 5 and <name> is required"
    assert f"answered 400: {said}" in str(answered(400, {"message": said}))


@pytest.mark.parametrize("body", [b"", b"  \r\n "])
def test_an_empty_body_is_no_message(body: bytes) -> None:
    assert str(answered(502, body)).endswith("answered 502: no message")


def test_texts_are_cut_to_a_readable_length() -> None:
    body = {"message": "m" * 10**6, "errors": {"documents": {str(n): ["e" * 500] for n in range(1000)}}}
    error = answered(206, body)
    text = str(error)
    assert len(text) < 800
    assert "…" in text
    assert text.count("m") > 200
    assert '{"documents":{"0":["eee' in text
    assert len(error.message) == 10**6


def test_deep_errors_are_told_down_to_some_depth() -> None:
    body = b'{"errors": {"a": ' + b"[" * 400 + b'"x"' + b"]" * 400 + b"}}"
    assert "…" in str(answered(400, body))


def test_the_body_is_kept_up_to_4_kib() -> None:
    body = json.dumps({"message": "x" * 10_000}).encode()
    assert answered(400, body).body == body[:4096]
    assert answered(400, b"short").body == b"short"


UNSAFE = (
    "\x00\x07\x1b[31m\x7f\x85\u061c\u200b\u200e\u202a\u202e\u2028\u2029\u2066\u2069\ufeff\ue000\U000e0041"
)


@each_row(
    "error",
    [
        answered(400, {"message": f"a{UNSAFE}b"}),
        answered(400, {"message": "m", "errors": f"a{UNSAFE}b"}),
        answered(400, {"message": "m", "errors": {f"a{UNSAFE}": [f"b{UNSAFE}"]}}),
        answered(500, f"a{UNSAFE}b".encode()),
        answered(500, f"<html><title>a{UNSAFE}b</title>".encode()),
        answered(401, b"", {"www-authenticate": f"JWT {UNSAFE}"}),
        answered(301, b"", {"location": f"/a{UNSAFE}"}),
    ],
)
def test_control_and_direction_marks_are_escaped(error: APIError) -> None:
    assert error.summary.isprintable()
    assert (error.hint or "").replace("\n", " ").isprintable()


def test_other_scripts_are_not_escaped() -> None:
    assert "अमान्य टोकन — ناموجود 🙂" in str(answered(400, {"message": "अमान्य टोकन — ناموجود 🙂"}))


# --- headers -----------------------------------------------------------------------------------------------


def test_only_harmless_headers_are_kept() -> None:
    kept = {
        "date": DATE,
        "retry-after": "3",
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1768474860",
        "x-request-id": "abc",
        "www-authenticate": "Token",
    }
    dropped = {
        "set-cookie": "session=secret",
        "server": "gunicorn",
        "location": "https://u:p@h/",
        "authorization": "Token secret",
        "x-ratelimit": "1",
        "x-date": "1",
        "x-request-id-2": "1",
        "": "1",
    }
    assert safe_headers(kept | dropped) == kept
    assert answered(429, b"", kept | dropped).headers == kept


# --- how long to wait --------------------------------------------------------------------------------------


def test_a_429_as_documented() -> None:
    error = answered(
        429,
        {"error": {"code": "rate_limit_exceeded", "message": "Rate limit exceeded. Retry in 7 s."}},
        {"retry-after": "7", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999"},
    )
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 7.0
    assert error.message == "Rate limit exceeded. Retry in 7 s."
    assert error.headers["x-ratelimit-remaining"] == "0"


@each_row(
    ("headers", "seconds"),
    [
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 12 "}, 12.0),
        ({"retry-after": "Thu, 15 Jan 2026 11:00:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Thu, 15 Jan 2026 10:59:00 GMT", "date": DATE}, 0.0),
        ({"x-ratelimit-reset": str(DATE_AS_UNIX + 45), "date": DATE}, 45.0),
        ({"x-ratelimit-reset": str(DATE_AS_UNIX - 45), "date": DATE}, 0.0),
        ({"x-ratelimit-reset": "20"}, 20.0),
        # Up to 115 days are a delay; a greater number is a time.
        ({"x-ratelimit-reset": "86400"}, 86_400.0),
        ({"x-ratelimit-reset": "9999999"}, 9_999_999.0),
        ({"x-ratelimit-reset": "10000000", "date": DATE}, 0.0),
        ({"x-ratelimit-reset": "99999999", "date": DATE}, 0.0),
        ({"x-ratelimit-reset": "99999999999", "date": DATE}, 99_999_999_999 - DATE_AS_UNIX),
        ({"x-ratelimit-reset": "100000000000", "date": DATE}, 0.0),  # milliseconds
        ({"retry-after": "5", "x-ratelimit-reset": "20"}, 5.0),
        # What is not understood is as if it were not there.
        ({"retry-after": "soon", "x-ratelimit-reset": "20"}, 20.0),
        ({}, None),
        ({"date": DATE}, None),
        # Decimals and milliseconds are rounded up.
        ({"retry-after": "1.5"}, 2.0),
        ({"retry-after": "2.0"}, 2.0),
        ({"retry-after": "299.997"}, 300.0),
        ({"retry-after": "0.000000001"}, 1.0),
        ({"retry-after-ms": "1500"}, 2.0),
        ({"retry-after-ms": "2000.0"}, 2.0),
        ({"retry-after-ms": "20"}, 1.0),
        ({"x-ratelimit-reset": "2.5"}, 3.0),
        ({"x-ratelimit-reset": f"{DATE_AS_UNIX + 2}.25", "date": DATE}, 3.0),
        ({"x-ratelimit-reset": f"{DATE_AS_UNIX + 45}250", "date": DATE}, 46.0),
        ({"ratelimit-reset": "30"}, 30.0),
        ({"ratelimit-reset": f"{DATE_AS_UNIX + 45}", "date": DATE}, 45.0),
        # Of several values the longest counts, and what is not understood is left out.
        ({"retry-after": "2, 2"}, 2.0),
        ({"retry-after": "2,7 , 0"}, 7.0),
        ({"retry-after": "nan, 3, -9"}, 3.0),
        ({"retry-after": "2, Thu, 15 Jan 2026 11:00:30 GMT, 5", "date": DATE}, 30.0),
        ({"retry-after": "Thu, 15 Jan 2026 11:00:30 GMT, Thu, 15 Jan 2026 11:00:40 GMT", "date": DATE}, 40.0),
        ({"retry-after": "1", "retry-after-ms": "2500"}, 3.0),
        ({"retry-after": "4", "retry-after-ms": "2500"}, 4.0),
        ({"retry-after-ms": "2500", "x-ratelimit-reset": "60"}, 3.0),
        ({"x-ratelimit-reset": "20", "ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-reset": "soon", "ratelimit-reset": "30"}, 30.0),
        # The other forms of a date.
        ({"retry-after": "Thursday, 15-Jan-26 11:00:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Thu Jan 15 11:00:30 2026", "date": DATE}, 30.0),
        ({"retry-after": "Thu, 15 Jan 2026 11:00:30 +0000", "date": DATE}, 30.0),
        # Without the server's clock, times are compared with that of this machine, here DATE + 10 s.
        ({"retry-after": "Thu, 15 Jan 2026 11:00:30 GMT"}, 20.0),
        ({"retry-after": "Thu, 15 Jan 2026 11:00:05 GMT"}, 0.0),
        ({"retry-after": "Thu, 15 Jan 2026 11:00:30 GMT", "date": "today"}, 20.0),
        ({"x-ratelimit-reset": str(DATE_AS_UNIX + 45)}, 35.0),
        ({"x-ratelimit-reset": f"{DATE_AS_UNIX + 45}.5"}, 36.0),
        ({"x-ratelimit-reset": str(DATE_AS_UNIX)}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, lambda: DATE_AS_UNIX + 10.0) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system cannot change the time zone of a process")
def test_a_date_without_a_time_zone_is_in_utc_wherever_this_machine_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "IST-5:30")
        time.tzset()
        assert retry_after({"retry-after": "Thu Jan 15 11:00:30 2026", "date": DATE}) == 30
    time.tzset()


NO_WAIT = [
    "",
    "-1",
    "+1",
    "1e3",
    "1.5e3",
    "1.",
    ".5",
    "1.5.5",
    "1 5",
    "+1.5",
    "-1.5",
    "NaN",
    "1s",
    "inf",
    "Infinity",
    "nan",
    "-inf",
    "0x10",
    "1_0",
    "٣",  # Arabic
    "３",  # full width
    "²",
    "9" * 14,
    "9" * 10_000,
    "1." + "9" * 10_000,
    "Thu, 15 Jan 2026 11:00:30",
    "Thu, 15 Jan 2026 11:00:30 +0100",
    ", ,",
    "Thu, 99 Foo 2026 11:00:30 GMT",
    "Thu, 15 Jan 2026 99:99:99 GMT",
    "Thu, 15 Jan , 11:00:30 GMT",
    "GMT",
    "\x00",
]


@each_row("value", NO_WAIT)
@each_row("name", ["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit-reset"])
def test_a_wait_is_read_strictly(name: str, value: str) -> None:
    assert retry_after({name: value, "date": DATE}) is None
    assert retry_after({name: value}) is None


@each_row("name", ["retry-after", "retry-after-ms"])
def test_a_number_of_ten_digits_is_no_delay(name: str) -> None:
    assert retry_after({name: "999999999"}) is not None
    assert retry_after({name: "1000000000"}) is None
    assert retry_after({name: "1000000000.5"}) is None


TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from([*NO_WAIT, DATE, "Thu, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"]),
    st.integers().map(str),
)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_wait_is_never_endless(asked: str, milliseconds: str, reset: str, date: str) -> None:
    headers = {"retry-after": asked, "retry-after-ms": milliseconds, "x-ratelimit-reset": reset, "date": date}
    seconds = retry_after(headers)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


# --- anything at all ---------------------------------------------------------------------------------------

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.fixed_dictionaries(
        {},
        optional={"message": VALUES, "errors": VALUES, "data": VALUES, "detail": VALUES, "error": VALUES},
    ).map(lambda told: json.dumps(told).encode()),
)


@given(
    st.one_of(st.just(206), st.integers(300, 599)),
    BODIES,
    st.dictionaries(st.sampled_from(["location", "www-authenticate"]), st.text()),
)
def test_anything_becomes_an_error_with_a_text(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = classify(REQUEST, Response(status, headers, body))
    assert isinstance(error, APIError)
    assert error.summary.isprintable()
    assert (error.hint or "").replace("\n", " ").isprintable()
    assert len(str(error)) < 1300
    classify_body(REQUEST, Response(200, headers, body))
