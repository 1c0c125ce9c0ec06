"""Arguments come before the environment, and what cannot work is refused without showing the token."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tests.tables import each_row
from unpod_async._http import Settings, resolve
from unpod_async.errors import ConfigurationError

KEY = "a11ce000000000000000000000000000"
ROOT = "/api/v2/platform/"


def base(url: str, **more: Any) -> str:
    return resolve(token=KEY, base_url=url, environ={}, **more)[0].base_url


def refusal(**arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        resolve(**{"token": KEY, "environ": {}} | arguments)
    return str(caught.value)


def test_a_token_alone_is_enough() -> None:
    settings, secret = resolve(token=KEY, environ={})
    assert secret.reveal() == KEY
    assert settings == Settings(
        base_url=f"https://unpod.ai{ROOT}",
        org_handle=None,
        auth_scheme="Token",
        page_size=100,
        max_concurrency=8,
        allow_http=False,
    )


def test_settings_pickle_and_hold_no_token() -> None:
    settings, _ = resolve(token=KEY, org_handle="org.example", environ={})
    dumped = pickle.dumps(settings)
    assert pickle.loads(dumped) == settings  # noqa: S301
    assert KEY.encode() not in dumped
    assert KEY not in repr(settings)


def test_the_environment_fills_what_is_not_given() -> None:
    environ = {
        "UNPOD_PLATFORM_TOKEN": f" {KEY}\n",
        "UNPOD_ORG_HANDLE": "org.example\r\n",
        "UNPOD_PLATFORM_BASE_URL": "platform.example",
        "UNPOD_BASE_URL": "base.example",
    }
    settings, secret = resolve(environ=environ)
    assert (secret.reveal(), settings.org_handle) == (KEY, "org.example")
    assert settings.base_url == f"https://platform.example{ROOT}"
    assert (
        resolve(environ=environ | {"UNPOD_PLATFORM_BASE_URL": ""})[0].base_url
        == f"https://base.example{ROOT}"
    )


def test_arguments_come_before_the_environment() -> None:
    environ = {"UNPOD_PLATFORM_TOKEN": "other", "UNPOD_ORG_HANDLE": "other", "UNPOD_BASE_URL": "\\"}
    settings, secret = resolve(token=KEY, org_handle="mine", base_url="mine.example", environ=environ)
    assert (secret.reveal(), settings.org_handle) == (KEY, "mine")
    assert settings.base_url == f"https://mine.example{ROOT}"


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_variable_counts_as_unset(blank: str) -> None:
    names = ("UNPOD_ORG_HANDLE", "UNPOD_BASE_URL", "UNPOD_PLATFORM_BASE_URL")
    settings, _ = resolve(token=KEY, environ=dict.fromkeys(names, blank))
    assert (settings.org_handle, settings.base_url) == (None, f"https://unpod.ai{ROOT}")


@pytest.mark.parametrize("environ", [{}, {"UNPOD_PLATFORM_TOKEN": " "}, {"UNPOD_TOKEN": KEY}])
def test_a_missing_token_names_the_argument_and_the_variable(environ: dict[str, str]) -> None:
    text = refusal(token=None, environ=environ)
    assert "token=" in text
    assert "UNPOD_PLATFORM_TOKEN" in text


@each_row(
    "scheme",
    ["Token", "token", "Bearer", "JWT", "Authorization: Token", "authorization:Bearer", "Basic", "Api-Key"],
)
@each_row("where", ["argument", "variable"])
def test_a_token_with_its_scheme_is_refused(scheme: str, where: str) -> None:
    value = f"{scheme} {KEY}"
    given_as = {"token": value} if where == "argument" else {"environ": {"UNPOD_PLATFORM_TOKEN": value}}
    text = refusal(**{"token": None} | given_as)
    assert "pass the key alone" in text
    assert "auth_scheme=" in text
    assert KEY not in text


def test_a_scheme_without_a_key_is_refused() -> None:
    assert "pass the key alone" in refusal(token="Token ")


@each_row("name", ["token", "org_handle", "base_url"])
@each_row(
    ("before", "after", "problem"),
    [
        ('"', '"', "must not be in quotes"),
        ("'", "", "must not be in quotes"),
        ("", "\u2019", "must not be in quotes"),
        ("`", "`", "must not be in quotes"),
        ("NAME=", "", "must not be a whole line NAME=value"),
        ("export NAME=", "\nOTHER=1", "must not be a whole line NAME=value"),
        ("set name = ", "", "must not be a whole line NAME=value"),
        ("\ufeff", "", ""),
        (" \ufeff ", "\r\n", ""),
    ],
)
def test_what_editors_and_shells_put_around_a_value(name: str, before: str, after: str, problem: str) -> None:
    value = {"token": KEY, "org_handle": "org.example", "base_url": "https://platform.example"}[name]
    variables = {"token": "PLATFORM_TOKEN", "org_handle": "ORG_HANDLE", "base_url": "BASE_URL"}
    given = f"{before}{value}{after}"
    for arguments in ({name: given}, {"environ": {f"UNPOD_{variables[name]}": given}}):
        more = {} if name == "token" else {"token": KEY}
        if name == "base_url" and given != given.strip():
            continue  # whitespace around a URL is refused
        if problem:
            text = refusal(**{"token": None} | more | arguments)
            assert problem in text
            assert value not in text
        else:
            settings, secret = resolve(**{"environ": {}} | more | arguments)  # type: ignore[arg-type]
            assert value in (secret.reveal(), settings.org_handle, settings.base_url.removesuffix(ROOT))


@each_row("token", ["abc==", "abc=", "a.b-c_d~e/f+g=", "A0_=="])
def test_a_token_may_end_like_base64(token: str) -> None:
    assert resolve(token=token, environ={})[1].reveal() == token


@each_row("token", ["", "  ", "a b", "a\nb", "a\x00b", "a\x7f", "schlüssel", "a\u2028b"])
def test_a_token_that_cannot_be_a_header_is_refused(token: str) -> None:
    assert "token" in refusal(token=token)


@pytest.mark.parametrize("handle", ["", " ", "a b", "a\r\nX: y", "é"])
def test_an_org_handle_that_cannot_be_a_header_is_refused(handle: str) -> None:
    assert "org_handle" in refusal(org_handle=handle)


@each_row("scheme", ["", "Token ", "To ken", "1Token", "Token\n", "Tökén", ":"])
def test_an_auth_scheme_is_one_word(scheme: str) -> None:
    assert "auth_scheme" in refusal(auth_scheme=scheme)


def test_an_auth_scheme_is_kept_as_written() -> None:
    assert resolve(token=KEY, auth_scheme="Api-Key2", environ={})[0].auth_scheme == "Api-Key2"


@each_row(
    ("name", "value"),
    [
        *(("page_size", value) for value in (0, -1, 2**31, 10**4000, True, 10.0, "10", None)),
        *(("max_concurrency", value) for value in (0, -1, False, 2.0, "8", None)),
        *(("allow_http", value) for value in (1, "yes", None)),
        *(("auth_scheme", value) for value in (None, b"Token", 1)),
        *((name, value) for name in ("token", "org_handle", "base_url") for value in (b"bytes", 7, ["x"])),
    ],
)
def test_wrong_types_and_ranges_name_the_argument(name: str, value: Any) -> None:
    assert name in refusal(**{name: value})


def test_the_largest_page_size_is_accepted() -> None:
    assert resolve(token=KEY, page_size=2**31 - 1, environ={})[0].page_size == 2**31 - 1


@each_row(
    ("url", "root"),
    [
        ("unpod.dev", "https://unpod.dev"),
        ("localhost", "http://localhost"),
        ("localhost:3001", "http://localhost:3001"),
        ("LocalHost:3001", "http://localhost:3001"),
        ("api.localhost", "http://api.localhost"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.9.8.7", "http://127.9.8.7"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[0:0::1]", "http://[::1]"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("10.0.0.1", "https://10.0.0.1"),
        ("api.unpod.ai/prefix", "https://api.unpod.ai/prefix"),
        ("https://api.unpod.ai", "https://api.unpod.ai"),
        ("HTTPS://API.Unpod.AI/", "https://api.unpod.ai"),
        ("https://unpod.ai:443", "https://unpod.ai"),
        ("https://unpod.ai:8443/", "https://unpod.ai:8443"),
        ("https://unpod.ai//a///b//", "https://unpod.ai/a/b"),
        ("https://unpod.ai/api/v2/platform", "https://unpod.ai"),
        ("https://unpod.ai/api/v2/platform/", "https://unpod.ai"),
        ("https://unpod.ai/x//api//v2/platform//", "https://unpod.ai/x"),
        ("https://unpod.ai/api/v2/platforms", "https://unpod.ai/api/v2/platforms"),
        ("http://localhost:3001/", "http://localhost:3001"),
        ("https://localhost", "https://localhost"),
        ("unpod_api:8000", "https://unpod_api:8000"),
    ],
)
def test_a_base_url_is_brought_into_one_form(url: str, root: str) -> None:
    assert base(url) == root + ROOT
    assert base(base(url)) == base(url)
    assert str(URL(base(url))) == base(url)


@each_row(
    "url",
    [
        "",
        " ",
        " unpod.ai",
        "https://unpod.ai ",
        "https://unpod.ai\n",
        "https://un\tpod.ai",
        "https://unpod.ai/a b",
        "https://unpod.ai\\x",
        "https:\\\\unpod.ai",
        "https://unpod.ai/\x00",
        "https://ünpod.ai",
        "https://unpod.ai/é",
        "ftp://unpod.ai",
        "file:///etc/passwd",
        "ws://unpod.ai",
        "javascript:alert(1)",
        "://unpod.ai",
        "mailto:a",
        "https://",
        "https:///x",
        "https://:80",
        "//evil/x",
        "///x",
        "/x",
        "https:unpod.ai",
        "https:/unpod.ai",
        "::1",
        "https://::1",
        "https://[::1",
        "https://[]",
        "https://[::1]x",
        "https://[fe80::1%25eth0]",
        "[::1%eth0]",
        "https://unpod.ai?x=1",
        "https://unpod.ai/?",
        "https://unpod.ai#",
        "https://unpod.ai/#x",
        "unpod.ai?x",
        "https://user@unpod.ai",
        "https://user:pass@unpod.ai",
        "user:pass@unpod.ai",
        "https://@unpod.ai",
        "https://unpod.ai/..",
        "https://unpod.ai/a/../b",
        "https://unpod.ai/./",
        "https://unpod.ai/%2e%2e/x",
        "https://unpod.ai:",
        "https://unpod.ai:0",
        "https://unpod.ai:65536",
        "https://unpod.ai:+80",
        "unpod.ai:8_0",
        "https://unpod.ai:abc",
        "https://unpod.ai:1:2",
        "https://-unpod.ai",
        "https://unpod..ai",
        "https://.unpod.ai",
        "https://127.1",
        "https://0x7f000001",
        "https://2130706433",
        "https://1.2.3.256",
        "https://127.0.0.01",
        "https://" + "a." * 200 + "ai",
        "https://" + "a" * 64,
        'https://unpod.ai/"',
        "https://unpod.ai/<x>",
    ],
)
def test_a_base_url_that_cannot_work_is_refused(url: str) -> None:
    assert refusal(base_url=url).startswith("base_url must ")


def test_the_refusal_names_the_variable_the_url_came_from() -> None:
    assert "UNPOD_BASE_URL must" in refusal(environ={"UNPOD_BASE_URL": "ftp://x"})


@each_row(
    "url",
    [
        "http://unpod.ai",
        "HTTP://unpod.ai",
        "http://localhost.evil.example",
        "http://127.0.0.1.nip.io",
        "http://10.0.0.1",
        "http://[::ffff:127.0.0.1]",
        "http://[2001:db8::1]",
        "http://0.0.0.0",
        "http://evil-localhost",
    ],
)
def test_http_beyond_this_machine_needs_to_be_allowed(url: str) -> None:
    text = refusal(base_url=url)
    assert "token unencrypted" in text
    assert "allow_http=True" in text
    assert base(url, allow_http=True).startswith("http://")


def test_allow_http_does_not_take_tls_from_a_bare_host() -> None:
    assert base("unpod.dev", allow_http=True).startswith("https://")


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@unpod.ai", "hunter2@unpod.ai", "http://u:hunter2@unpod.ai/x"]
)
def test_a_password_in_a_url_is_not_repeated(url: str) -> None:
    text = refusal(base_url=url)
    assert "hunter2" not in text
    assert "user name or password" in text


tokens = st.text("abcdefgh0123-._~/+=", min_size=12, max_size=60)
# Places for a token: every argument, as it is and inside other text.
slips = st.sampled_from([
    "{}",
    " {} ",
    "Token {}",
    "{} {}",
    "{}\n{}",
    "http://{}",
    "https://{}@unpod.ai",
    "https://unpod.ai/?t={}",
    "http://{}.example",
    "{}://unpod.ai",
    "https://unpod.ai:{}",
    "é{}",
    "https://unpod.ai/{}%",
    "Bearer\t{}",
])


@given(tokens, st.sampled_from(["token", "org_handle", "base_url", "auth_scheme"]), slips)
def test_no_error_text_holds_the_token(token: str, name: str, slip: str) -> None:
    shown = ""
    try:
        arguments: dict[str, Any] = {"token": token, "environ": {}, name: slip.replace("{}", token)}
        resolve(**arguments)
    except ConfigurationError as error:
        shown = f"{error} {error!r}"
    assert token not in shown


@given(
    st.one_of(st.text(max_size=40), st.from_regex(r"(https?://)?[a-z\[\]:.@/?#%\\]{1,30}", fullmatch=True))
)
def test_any_base_url_is_refused_or_keeps_its_meaning(url: str) -> None:
    try:
        result = base(url)
    except ConfigurationError:
        return
    read = URL(result)
    assert str(read) == result
    assert read.path.endswith(ROOT)
    assert (
        read.scheme == "https"
        or read.host in {"localhost", "::1"}
        or (read.host or "").endswith(".localhost")
    )
    assert (read.user, read.password, read.query_string, read.fragment) == (None, None, "", "")
    assert base(result) == result
