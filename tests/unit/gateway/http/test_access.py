"""Who may ask a gateway, and whose request is refused with which status."""

from __future__ import annotations

import gc
from collections import deque
from contextlib import suppress
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.http import access
from llcuda.gateway.http.access import Access, Caller, check_content_type, require_admin
from llcuda.gateway.http.owner import Owner

MODELS = (ModelConfig("demo", "demo"),)
KEYS = (
    KeyConfig("ann", "sk-ann"),
    KeyConfig("root", "sk-root", is_admin=True, priority=5, max_in_flight=2),
    KeyConfig("long", "k" * 256),
)
OPEN = Access(
    GatewayConfig(
        MODELS,
        allowed_hosts=("api.example.com", "proxy.example.com:8443"),
        allowed_origins=("https://app.example.com", "chrome-extension://abcdef"),
    ),
    port=8090,
)
KEYED = Access(GatewayConfig(MODELS, keys=KEYS), port=8090)
TLS = Access(GatewayConfig(MODELS, tls_certificate=Path("c.pem"), tls_key=Path("k.pem")), port=8090)


HELD = (tuple, dict, str, bytes, list, deque, Caller)


def refused(access: Access, headers: dict[str, str], *, method: str = "GET") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        access.check_origin(headers, method=method)
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8090",
        "127.0.0.1",
        "localhost:8090",
        "LocalHost",
        "[::1]:8090",
        "[::1]",
        "[2001:DB8::7]:8090",
        "[::ffff:192.0.2.1]:8090",
        "192.168.1.7:8090",
        "api.example.com",
        "API.example.com:8090",
        "proxy.example.com:8443",
        # A port that is mapped to ours.
        "127.0.0.1:80",
        "localhost:8091",
        "[::1]:1",
    ],
)
def test_a_host_that_is_ours_passes(host: str) -> None:
    OPEN.check_origin({"host": host}, method="GET")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        # Names that somebody else can make point here.
        ("evil.example", 421),
        ("evil.example:8090", 421),
        ("localhost.evil.example:8090", 421),
        ("127.0.0.1.nip.io:8090", 421),
        ("7f000001.rbndr.us:8090", 421),
        ("xlocalhost:8090", 421),
        ("localhost.", 421),
        ("app.localhost:8090", 421),
        ("api.example.com.evil.example", 421),
        ("xapi.example.com", 421),
        ("example.com", 421),
        ("proxy.example.com", 421),
        ("api.example.com:443", 421),
        # What looks like an address to one parser and like a name to another.
        ("0x7f000001:8090", 421),
        ("2130706433:8090", 421),
        ("127.1:8090", 421),
        ("0177.0.0.1:8090", 421),
        ("127.0.0.1.:8090", 421),
        ("127.0.0.256", 421),
        ("[::1::2]:8090", 421),
        ("[127.0.0.1]:8090", 421),
        ("[:::]", 421),
        # What is no host at all, or two.
        ("", 400),
        (" ", 400),
        (":8090", 400),
        ("localhost:", 400),
        ("localhost:8090:8090", 400),
        ("localhost:80 90", 400),
        ("localhost:+8090", 400),
        ("localhost:\uff18\uff10\uff19\uff10", 400),
        ("localhost:123456", 400),
        ("::1", 400),
        ("[::1", 400),
        ("[fe80::1%25eth0]:8090", 400),
        ("[fe80::1%eth0]:8090", 400),
        ("user@localhost:8090", 400),
        ("localhost@evil.example", 400),
        ("localhost#.evil.example", 400),
        ("localhost/evil", 400),
        ("localhost\\.evil.example", 400),
        ("localhost, evil.example", 400),
        ("evil.example, localhost", 400),
        ("localhost\tevil", 400),
        ("localhost\n", 400),
        (" localhost", 400),
        ("localhost\x00", 400),
        ("l\xf6calhost", 400),
        ("http://localhost:8090", 400),
    ],
)
def test_a_host_that_is_not_ours_is_refused(host: str, status: int) -> None:
    assert refused(OPEN, {"host": host}).status == status


def test_a_request_without_a_host_is_refused() -> None:
    error = refused(OPEN, {})
    assert (error.status, error.code) == (400, "invalid_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:8090", "origin": "http://localhost:8090"},
        {"host": "LOCALHOST:8090", "origin": "http://localhost:8090", "sec-fetch-site": "same-origin"},
        {"host": "[::1]:8090", "origin": "http://[::1]:8090"},
        {"host": "api.example.com", "origin": "http://api.example.com"},
        {"host": "api.example.com", "origin": "https://app.example.com", "sec-fetch-site": "cross-site"},
        {"host": "localhost:8090", "origin": "chrome-extension://ABCDEF", "sec-fetch-site": "cross-site"},
        {"host": "localhost:8090", "sec-fetch-site": "none"},
        {"host": "localhost:8090", "sec-fetch-site": "same-origin"},
    ],
)
def test_our_own_pages_and_those_allowed_pass(headers: dict[str, str]) -> None:
    OPEN.check_origin(headers, method="GET")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "http://evil.example",
        "http://evil.example:8090",
        "http://localhost",
        "http://localhost:3000",
        "http://localhost:8091",
        "http://127.0.0.1:8090",
        "https://localhost:8090",
        "http://localhost:8090.evil.example",
        "http://localhost:8090@evil.example",
        "http://localhost:8090/",
        "http://localhost:8090, http://evil.example",
        "http://evil.example http://localhost:8090",
        "//localhost:8090",
        "localhost:8090",
        "file://",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "https://app.example.com:443",
        "https://evilapp.example.com",
        "https://app.example.com/",
        "chrome-extension://abcdeg",
        "http://l\xf6calhost:8090",
    ],
)
def test_the_page_of_another_site_is_refused(origin: str) -> None:
    for site in ({}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "cross-site"}):
        error = refused(OPEN, {"host": "localhost:8090", "origin": origin, **site})
        assert (error.status, error.code) == (403, "foreign_origin")


@pytest.mark.parametrize("site", ["cross-site", "Cross-Site", " cross-site "])
def test_what_another_site_asks_without_an_origin_is_refused(site: str) -> None:
    assert refused(OPEN, {"host": "localhost:8090", "sec-fetch-site": site}).status == 403


LINK = {"host": "localhost:8090", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


def test_a_link_on_another_site_may_be_followed() -> None:
    OPEN.check_origin({**LINK, "sec-fetch-dest": "document"}, method="GET")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {**LINK, "sec-fetch-dest": "document"}),
        ("GET", {**LINK, "sec-fetch-dest": "iframe"}),
        ("GET", {**LINK, "sec-fetch-dest": "document", "sec-fetch-mode": "no-cors"}),
        ("GET", {**LINK, "sec-fetch-dest": "document", "origin": "https://evil.example"}),
        ("GET", LINK),
    ],
)
def test_what_looks_like_a_link_and_is_none_is_refused(method: str, headers: dict[str, str]) -> None:
    assert refused(OPEN, headers, method=method).status == 403


def test_an_origin_of_ours_that_the_browser_calls_another_site_is_refused() -> None:
    headers = {"host": "localhost:8090", "origin": "http://localhost:8090", "sec-fetch-site": "cross-site"}
    assert refused(OPEN, headers).status == 403


def test_with_tls_our_own_origin_is_https() -> None:
    TLS.check_origin({"host": "localhost:8090", "origin": "https://localhost:8090"}, method="GET")
    assert refused(TLS, {"host": "localhost:8090", "origin": "http://localhost:8090"}).status == 403


def test_the_pages_of_allowed_origins_see_their_answers_and_no_others() -> None:
    seen = OPEN.cors_headers({"origin": "https://App.example.com"})
    assert seen["Access-Control-Allow-Origin"] == "https://App.example.com"
    assert OPEN.cors_headers({"origin": "https://evil.example"}) == OPEN.cors_headers({}) == {"Vary": "Origin"}
    assert KEYED.cors_headers({"origin": "https://app.example.com"}) == {}


def test_a_page_is_told_beforehand_that_it_may_send_a_key() -> None:
    told = OPEN.cors_headers({"origin": "https://app.example.com"}, preflight=True)
    assert told["Access-Control-Allow-Headers"].startswith("Authorization")
    assert "Access-Control-Allow-Credentials" not in told


def test_a_name_that_is_listened_on_is_ours() -> None:
    access = Access(GatewayConfig(MODELS, host="MyHost", keys=KEYS), port=8090)
    access.check_origin({"host": "myhost:8090"}, method="GET")
    assert refused(access, {"host": "myhost2:8090"}).status == 421


def test_what_was_refused_is_refused_again_and_what_passed_passes_again() -> None:
    for _ in range(3):
        OPEN.check_origin({"host": "localhost:8090"}, method="GET")
        assert refused(OPEN, {"host": "evil.example"}).status == 421


def test_what_is_remembered_is_bounded() -> None:
    access = Access(GatewayConfig(MODELS), port=8090)
    for number in range(1000):
        headers = {"host": f"10.0.{number // 256}.{number % 256}", "sec-fetch-site": "x" * number}
        access.check_origin(headers, method="GET")
    assert access._check.cache_info().currsize <= 128


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": "Bearer sk-ann"}, "ann"),
        ({"authorization": "bearer sk-ann"}, "ann"),
        ({"authorization": "BEARER   sk-ann "}, "ann"),
        ({"x-api-key": "sk-ann"}, "ann"),
        ({"authorization": "Bearer sk-ann", "x-api-key": "sk-ann"}, "ann"),
        ({"authorization": f"Bearer {'k' * 256}"}, "long"),
    ],
)
def test_a_key_says_who_asks(headers: dict[str, str], name: str) -> None:
    assert KEYED.authenticate(headers).name == name


@pytest.mark.parametrize("key", ["sk-ann", "sk-root", "sk-anx", "x", "k" * 256])
def test_a_key_is_compared_with_every_one_by_digests_in_constant_time(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append((known, given))
        return compare_digest(known, given)

    monkeypatch.setattr(access, "compare_digest", compare)
    with suppress(RefusedError):
        KEYED.authenticate({"x-api-key": key})
    assert [known for known, _ in compared] == [sha256(one.key.encode()).digest() for one in KEYS]
    assert {given for _, given in compared} == {sha256(key.encode()).digest()}


def test_a_caller_may_what_their_key_may() -> None:
    root = KEYED.authenticate({"x-api-key": "sk-root"})
    assert root == Caller("root", is_admin=True, priority=5, max_in_flight=2)
    require_admin(root)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sk-anN"},
        {"authorization": "Bearer sk-ann x"},
        {"authorization": "Bearer sk-ann\x00"},
        {"authorization": "Bearer\tsk-ann"},
        {"authorization": "Bearer: sk-ann"},
        {"authorization": "Bearer Bearer sk-ann"},
        {"authorization": 'Bearer "sk-ann"'},
        {"authorization": "Bearersk-ann"},
        {"authorization": "sk-ann"},
        {"authorization": "Basic c2stYW5u"},
        {"authorization": "Basic sk-ann"},
        {"authorization": "Bearer sk-an"},
        {"authorization": "Bearer sk-\xe4nn"},
        {"authorization": "Bearer sk-ann\ud800"},
        {"authorization": f"Bearer {'k' * 257}"},
        {"authorization": f"Bearer {'k' * 32000}"},
        {"x-api-key": ""},
        {"x-api-key": "Bearer sk-ann"},
        {"x-api-key": " sk-ann"},
        {"cookie": "api_key=sk-ann"},
        {"proxy-authorization": "Bearer sk-ann"},
    ],
)
def test_without_a_key_that_is_known_nothing_is_answered(headers: dict[str, str]) -> None:
    with pytest.raises(RefusedError) as caught:
        KEYED.authenticate(headers)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.headers["WWW-Authenticate"].startswith('Bearer realm="llcuda"')
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-ann, Bearer sk-root"},
        {"authorization": "Bearer sk-ann,Bearer sk-ann"},
        {"authorization": "Basic c2s=, Bearer sk-ann"},
        {"authorization": "Bearer sk-ann, "},
        {"authorization": ", Bearer sk-ann"},
        {"x-api-key": "sk-ann, sk-root"},
        {"authorization": "Bearer sk-ann", "x-api-key": "sk-root"},
        {"authorization": "Bearer sk-ann", "x-api-key": ""},
    ],
)
def test_several_keys_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(RefusedError) as caught:
        KEYED.authenticate(headers)
    assert (caught.value.status, caught.value.code) == (400, "several_api_keys")


def test_a_gateway_without_keys_asks_for_none_and_has_no_administrator() -> None:
    caller = OPEN.authenticate({"authorization": "Bearer not-needed"})
    assert caller == OPEN.authenticate({}) == Caller("anyone")
    with pytest.raises(RefusedError) as caught:
        require_admin(caller)
    assert (caught.value.status, caught.value.code) == (403, "admin_only")


def test_without_keys_the_owner_is_the_administrator_and_with_keys_nobody_is_by_a_link() -> None:
    links: list[str] = []
    owner = Owner(links.append)
    owner.offer("http://127.0.0.1:8090")
    first = links[0].partition("/#key=")[2]
    with pytest.raises(RefusedError, match="not one of this gateway's"):
        owner.claim("another")
    key = owner.claim(first)
    for _ in range(3):
        with pytest.raises(RefusedError, match="opened before"):
            owner.claim(first)
    assert len(links) == 2
    assert len({first, key, links[1].partition("/#key=")[2]}) == 3
    bearer, link = {"authorization": f"Bearer {key}"}, {"authorization": f"Bearer {first}"}
    access = Access(GatewayConfig(MODELS), port=8090, owner=owner)
    assert access.authenticate(bearer) == Caller("owner", is_admin=True)
    assert access.authenticate(link) == access.authenticate({}) == Caller("anyone")
    with pytest.raises(RefusedError):
        Access(GatewayConfig(MODELS, keys=KEYS), port=8090, owner=owner).authenticate(bearer)
    assert not {first, key} & set(strings_of(owner))


def test_no_key_is_kept() -> None:
    assert not any(text.startswith("sk-") for text in strings_of(KEYED))


def strings_of(one: object) -> list[str]:
    held = [one]
    for holder in held:  # which grows
        held += [item for item in gc.get_referents(holder) if isinstance(item, HELD)]
        assert len(held) < 10_000
    return [text for text in held if isinstance(text, str)]


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; charset=utf-8 ;",
        "application/json; charset=utf8",
        "application/json;",
    ],
)
def test_json_is_taken(value: str) -> None:
    check_content_type({"content-type": value})


@pytest.mark.parametrize(
    "value",
    [
        "",
        "text/plain",
        "text/plain; application/json",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/json, text/plain",
        "text/plain, application/json",
        "application/json; charset=utf-16",
        "application/json; charset=utf-7",
        "application/json; charset=iso-8859-1",
        'application/json; charset="utf-8',
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; boundary=x",
        "application/json+xml",
        "application/jsonp",
        "application/problem+json",
        "application /json",
        " application/json",
        "application/json\n",
        "x/application/json",
        "*/*",
    ],
)
def test_everything_else_is_refused(value: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_content_type({"content-type": value})
    assert (caught.value.status, caught.value.code) == (415, "invalid_content_type")


def test_a_body_without_a_type_is_refused() -> None:
    with pytest.raises(RefusedError, match="application/json"):
        check_content_type({})


def test_a_program_may_send_ollamas_requests_without_a_type_and_a_page_may_not() -> None:
    check_content_type({}, is_lenient=True)
    check_content_type({"content-type": "application/x-www-form-urlencoded"}, is_lenient=True)
    for told in ({"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}):
        with pytest.raises(RefusedError):
            check_content_type({"content-type": "text/plain", **told}, is_lenient=True)
