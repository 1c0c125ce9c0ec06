"""The addresses from which a recording may be fetched."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.tables import each_row
from unpod_async import InvalidArgument, RecordingError
from unpod_async._recordings import RecordingHosts, is_public

SECRET = "5ecret-signature"
NONE = RecordingHosts(())


@each_row(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1"),
        *(
            "240.0.0.1",
            "255.255.255.255",
            str(IPv4Address(0)),
            "::",
            "::1",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "fd00:ec2::254",
        ),
        *("fec0::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1", "::8.8.8.8"),
        *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "2001:db8::1"),
        # Tunnels, even to public addresses.
        *("2002:7f00:1::", "2002:808:808::", "2001::1", "2001:0:808:808::1"),
        *("", "localhost", "127.1", "0x7f000001", "1.1.1.1.1"),
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public(address: str) -> None:
    assert is_public(address)


@each_row(
    "url",
    [
        f"https://store.example/a/b.wav?Signature={SECRET}",
        "https://store.example:443/",
        "https://store.example",
        "HTTPS://STORE.example/x",
        "https://bücher.example/ä ö.wav",
        "https://8.8.8.8/x",
        "https://[2606:4700:4700::1111]/x",
    ],
)
def test_https_on_port_443_is_accepted(url: str) -> None:
    found = NONE.check(url)
    assert not found.is_named
    assert found.reveal().scheme == "https"


SIGNATURE = "X-Amz-Credential=A%2F2026%2Fs3&sig=a+b%2b/=%7E%c3%bc"


@each_row(
    ("url", "sent"),
    [
        *[
            (unchanged, unchanged)
            for unchanged in (
                f"/a%2Fb%3ac?{SIGNATURE}",
                "/%41?&a&=b&&c=%",
                "/./a/../b//c;d=e?f",
                '/a"<>{}|^`?"<>{}|^`',
            )
        ],
        # What no request line can contain is percent-encoded, and nothing else changes.
        (f"/a b%2Fc.wav?{SIGNATURE}", f"/a%20b%2Fc.wav?{SIGNATURE}"),
        (f"/ü/न.wav?{SIGNATURE}", f"/%C3%BC/%E0%A4%A8.wav?{SIGNATURE}"),
        ("/a?name=my call%2b.wav&x=ü", "/a?name=my%20call%2b.wav&x=%C3%BC"),
        ("/a\tb", "/a%09b"),
        ("/a?x \n", "/a?x"),
        ("/r\udce9c.wav", "/r%E9c.wav"),  # a byte of a Location header that is not UTF-8
    ],
)
def test_a_url_is_not_quoted_again(url: str, sent: str) -> None:
    # A signature may cover the exact characters of the URL.
    first = NONE.check(f"https://store.example{url}")
    assert first.reveal().raw_path_qs == sent
    for host in ("bücher.example", "xn--bcher-kva.example"):
        moved = NONE.follow(first, f"https://{host}{url}").reveal()
        assert (moved.raw_host, moved.raw_path_qs) == ("xn--bcher-kva.example", sent)


@each_row(
    ("location", "sent"),
    [
        (f"b c%2f.wav?{SIGNATURE}", f"/x/b%20c%2f.wav?{SIGNATURE}"),
        (f"/ü%2f?{SIGNATURE}", f"/%C3%BC%2f?{SIGNATURE}"),
        (f"?{SIGNATURE} ", f"/x/a?{SIGNATURE}"),
    ],
)
def test_a_relative_redirect_is_not_quoted_either(location: str, sent: str) -> None:
    first = NONE.check("https://store.example/x/a?old")
    assert NONE.follow(first, location).reveal().raw_path_qs == sent


REFUSED = [
    (f"http://store.example/x?{SECRET}", "http is not accepted"),
    (
        f"https://store.example:8443/x?{SECRET}",
        "only port 443 is accepted",
    ),
    (f"https://store.example:80/x?{SECRET}", "only port 443"),
    (f"https://user:{SECRET}@store.example/x", "a user name or password"),
    (f"https://{SECRET}@store.example/x", "a user name or password"),
    (f"https://@store.example/x?{SECRET}", "a user name or password"),
    (f"https://store.example\\@127.0.0.1/x?{SECRET}", "the URL is not valid"),
    (f"https://[::1/x?{SECRET}", "the URL is not valid"),
    (f"https://store.example:99999/x?{SECRET}", "the URL is not valid"),
    (f"https://store.ex ample/x?{SECRET}", "the URL is not valid"),
    (f"https://store.example/\ud800?{SECRET}", "the URL is not valid"),
    (f"https://ü@store.example/x?{SECRET}", "a user name or password"),
    (f"file:///etc/passwd?{SECRET}", "this is not an https URL"),
    (f"ftp://store.example/x?{SECRET}", "this is not an https URL"),
    (f"javascript:{SECRET}", "this is not an https URL"),
    (f"data:audio/wav,{SECRET}", "this is not an https URL"),
    (f"//store.example/x?{SECRET}", "this is not an https URL"),
    (f"/x?{SECRET}", "this is not an https URL"),
    (f"https:///x?{SECRET}", "this is not an https URL"),
    (f"https://?{SECRET}", "this is not an https URL"),
    ("", "this is not an https URL"),
]


@each_row(("url", "why"), REFUSED)
def test_refused_urls(url: str, why: str) -> None:
    with pytest.raises(RecordingError) as refused:
        NONE.check(url)
    assert why in str(refused.value)
    assert refused.value.permanent
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None


@each_row(
    ("host", "url"),
    [
        ("store.example", "http://store.example/x"),
        ("store.example", "http://STORE.example.:8080/x"),
        ("store.example", "https://store.example:8443/x"),
        ("Store.Example:8443", "https://store.example:8443/x"),
        ("store.example:443", "https://store.example/x"),
        ("store.example:80", "http://store.example/x"),
        ("10.0.0.7:9000", "http://10.0.0.7:9000/x"),
        ("[::1]:9000", "http://[::1]:9000/x"),
        ("[::1]", "http://[0:0:0:0:0:0:0:1]:1/x"),
        ("::1", "http://[::1]/x"),
        ("bücher.example", "http://xn--bcher-kva.example/x"),
        ("localhost", "http://localhost:1/x"),
    ],
)
def test_named_hosts_are_excepted(host: str, url: str) -> None:
    assert RecordingHosts([host]).check(url).is_named


@each_row(
    ("host", "url"),
    [
        ("store.example", "http://a.store.example/x"),
        ("store.example", "http://store.example.evil.example/x"),
        ("store.example:8443", "https://store.example:8444/x"),
        ("store.example:443", "http://store.example/x"),
        ("127.0.0.1", "http://localhost/x"),
        ("127.0.0.1", "http://2130706433/x"),
        ("store.example", "http://user@store.example/x"),
        ("store.example", "ftp://store.example/x"),
    ],
)
def test_only_named_hosts_are_excepted(host: str, url: str) -> None:
    with pytest.raises(RecordingError):
        RecordingHosts([host]).check(url)


@each_row(
    ("url", "shown"),
    [
        (f"http://store.example/x?{SECRET}", "store.example/x"),
        (f"http://127.0.0.1:9000/a/b/x?{SECRET}", "127.0.0.1:9000/…/x"),
        (f"https://store.example:8443/x?{SECRET}", "store.example:8443/x"),
        (f"http://[::1]/x?{SECRET}", "[::1]/x"),
        (f"http://[0:0::1]:9000/x?{SECRET}", "[0:0::1]:9000/x"),
        (f"http://{'.'.join(['bucket'] * 30)}:9000/x?{SECRET}", f"{'.'.join(['bucket'] * 30)}:9000/x"),
    ],
)
def test_a_refused_host_is_shown_as_it_can_be_named(url: str, shown: str) -> None:
    with pytest.raises(RecordingError) as refused:
        NONE.check(url)
    assert refused.value.summary.startswith(f"{shown}: ")
    assert RecordingHosts([shown.partition("/")[0]]).check(url).is_named


@each_row(
    "hosts",
    [
        "store.example",
        b"store.example",
        None,
        5,
        {"store.example"},
        [None],
        [5],
        [""],
        ["https://store.example"],
        ["store.example/path"],
        ["store.example?x"],
        ["store.example#x"],
        ["user@store.example"],
        ["*.store.example"],
        ["store example"],
        ["store.example:port"],
        ["store.example:99999"],
        ["a,b"],
        ["store.example\n"],
    ],
)
def test_bad_hosts(hosts: Any) -> None:
    with pytest.raises(InvalidArgument, match="recording_hosts"):
        RecordingHosts(hosts)


def test_a_url_shows_its_host_and_the_end_of_its_path() -> None:
    url = NONE.check(f"https://store.example/account/{'long' * 40}/rec.wav?X-Amz-Signature={SECRET}#{SECRET}")
    assert str(url) == "store.example/…/rec.wav"
    assert repr(url) == "RecordingUrl('store.example/…/rec.wav')"
    assert str(NONE.check("https://store.example")) == "store.example/"
    assert str(NONE.check("https://store.example/x\u202e.wav")).isascii()
    assert len(str(NONE.check(f"https://store.example/{'x' * 5000}"))) < 100
    assert len(str(NONE.check(f"https://{'x.' * 5000}example/"))) < 300


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://other.example/y?z=%2F", "https://other.example/y?z=%2F"),
        ("../c", "https://store.example/c"),
        ("?x=2", "https://store.example/a/b?x=2"),
        ("//other.example/y", "https://other.example/y"),
        ("/ä", "https://store.example/%C3%A4"),
    ],
)
def test_redirects(location: str, expected: str) -> None:
    start = NONE.check("https://store.example/a/b?x=1")
    assert str(NONE.follow(start, location).reveal()) == expected


@each_row(
    "location",
    [
        "",
        f"http://store.example/?{SECRET}",
        "http://store.example:443/",
        f"//user:{SECRET}@other.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://[::1",
    ],
)
def test_refused_redirects(location: str) -> None:
    start = NONE.check("https://store.example/a/b")
    with pytest.raises(RecordingError) as refused:
        NONE.follow(start, location)
    assert refused.value.permanent
    assert SECRET not in str(refused.value)
