"""Who may ask: the checks of a request's head against rebound names, pages of other sites, and wrong keys.

Host is checked against DNS rebinding: a page makes its own name point to this address. Whoever uses an IP address or
``localhost`` cannot have been led here by a name. Origin, ``Sec-Fetch-Site`` and the content type are checked
against pages that make a visitor's browser ask: a form, an image or a ``fetch`` without CORS sends them all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.config.checks import parse_host
from llcuda.gateway.config.configuration import MAX_KEY_LENGTH
from llcuda.gateway.http.owner import Owner, digest_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.gateway.config.configuration import GatewayConfig, KeyConfig

__all__ = ["Access", "Caller", "check_content_type", "parse_bearer", "require_admin"]

_JSON = re.compile(r'application/json[ \t]*(?:;[ \t]*charset=("?)utf-?8\1[ \t]*)?;?', re.IGNORECASE)
# A client has a few combinations, an attacker any number of addresses: the bound is about 50 kB.
_REMEMBERED = 128
_EXPOSED = {"Access-Control-Expose-Headers": "*"}
# The star stands for everything but Authorization.
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Max-Age": "600",
}
_CHALLENGE = 'Bearer realm="llcuda"'


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may do; :class:`llcuda.gateway.config.configuration.KeyConfig` without the key."""

    name: str
    is_admin: bool = False
    priority: int = 0
    max_in_flight: int | None = None


_ANYONE = Caller("anyone")
_OWNER = Caller("owner", is_admin=True)


class Access:
    """The checks that depend on the configuration. It holds digests of the keys, and no key.

    Headers map names in lower case to values; the values of a field that came several times are joined with a comma,
    which is in no key, no host and no origin.
    """

    def __init__(self, config: GatewayConfig, *, port: int, owner: Owner | None = None) -> None:
        """Take the configuration, and the ``port`` that is listened on, even if the configuration says 0.

        Without keys the ``owner`` is the only administrator.
        """
        self._owner = owner
        self._callers = tuple((digest_key(key.key), _to_caller(key)) for key in config.keys)
        self._port = str(port)
        self._scheme = "https" if config.tls_certificate else "http"
        self._hosts = frozenset(host.lower() for host in ("localhost", config.host, *config.allowed_hosts))
        self._origins = frozenset(origin.lower() for origin in config.allowed_origins)
        # Only what passed is kept: an error is raised anew.
        self._check = lru_cache(_REMEMBERED)(self._check_host_and_origin)

    def check_origin(self, headers: Mapping[str, str], *, method: str) -> None:
        """Let pass what was asked of this gateway, by a program, its own pages or those of ``allowed_origins``.

        Whoever follows a link on another site's page is let in too: that page sees nothing of where it led.
        Raises RefusedError: 400 for a Host that is missing or is none, 421 for one that is not ours, 403 for the page
        of another site.
        """
        site = headers.get("sec-fetch-site")
        is_foreign = site is not None and site.strip().lower() == "cross-site" and not _is_link(method, headers)
        self._check(headers.get("host"), headers.get("origin"), is_foreign)

    def cors_headers(self, headers: Mapping[str, str], *, preflight: bool = False) -> dict[str, str]:
        """Return what the answer carries for its page to see it, if the page's origin is one that is allowed.

        ``preflight`` is for the answer to OPTIONS, which a browser sends before, and without a key.
        """
        if not self._origins:
            return {}
        origin = headers.get("origin", "")
        if origin.lower() not in self._origins:
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", **(_PREFLIGHT if preflight else _EXPOSED)}

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return whose key the request carries, as ``Authorization: Bearer`` or ``X-Api-Key``.

        Raises RefusedError: 401 if it carries none that is known, 400 if it carries several.
        """
        if not self._callers:
            key = parse_bearer(headers.get("authorization", ""))
            return _OWNER if self._owner is not None and self._owner.has_given(key) else _ANYONE
        digest = digest_key(_find_key(headers))
        found = None
        # All are compared, each in constant time: how long it takes tells nothing about a key.
        for known, caller in self._callers:
            if compare_digest(known, digest):
                found = caller
        if found is None:
            raise _unauthorised("the API key is not one of this gateway's", error="invalid_token")
        return found

    def _check_host_and_origin(self, host: str | None, origin: str | None, is_foreign: bool, /) -> None:  # noqa: FBT001
        authority = self._check_host(host)
        if origin is None:
            if is_foreign:
                raise _forbidden("a page of another site asked, without saying which")
        elif origin.lower() not in self._origins and (is_foreign or origin.lower() != f"{self._scheme}://{authority}"):
            raise _forbidden("pages of this origin may not ask; `allowed_origins` names those that may")

    def _check_host(self, host: str | None) -> str:
        """Return the host and port as they were sent, in lower case."""
        authority = (host or "").lower()
        parsed = parse_host(authority)
        if parsed is None:
            raise RefusedError(400, "the request has no Host header that names one host", code="invalid_host")
        name, port = parsed
        # Of an address and localhost the port does not matter: no page can be led here by them, and a mapped port
        # (`ssh -L`, `docker -p`, `kubectl port-forward`) is not the one that is listened on.
        is_known = name == "localhost" or _is_address(name) or (name in self._hosts and port in {None, self._port})
        if not is_known and authority not in self._hosts:
            raise RefusedError(
                421, "this gateway is not known by that Host; `allowed_hosts` names more", code="unknown_host"
            )
        return authority


def require_admin(caller: Caller) -> None:
    """Let pass whose key is an administrator's; raises RefusedError (403) for everybody else."""
    if not caller.is_admin:
        raise RefusedError(403, "this needs the key of an administrator: one with `admin = true`", code="admin_only")


def check_content_type(headers: Mapping[str, str], *, is_lenient: bool = False) -> None:
    """Let pass a body that is JSON in UTF-8; raises RefusedError (415) for every other one.

    A page of another site can send any body as text or as a form, or without a type, but none as JSON without asking.
    ``is_lenient`` lets pass any type of a program: a browser says where a page is from.
    """
    if is_lenient and "origin" not in headers and "sec-fetch-site" not in headers:
        return
    value = headers.get("content-type", "")
    if value != "application/json" and not _JSON.fullmatch(value):
        remedy = "with curl, add -H 'Content-Type: application/json'"
        raise RefusedError(415, f"the body must be sent as JSON: {remedy}", code="invalid_content_type")


def _is_link(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser will show the answer in a tab, and not in a frame of the page that had the link."""
    fetched = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method == "GET" and fetched == ("navigate", "document")


def _to_caller(key: KeyConfig) -> Caller:
    return Caller(key.name, is_admin=key.is_admin, priority=key.priority, max_in_flight=key.max_in_flight)


def _find_key(headers: Mapping[str, str]) -> str:
    bearer, plain = headers.get("authorization"), headers.get("x-api-key")
    key = plain if bearer is None else parse_bearer(bearer)
    if not key:
        raise _unauthorised("an API key is needed: Authorization: Bearer KEY")
    if "," in key or (plain is not None and plain != key):
        raise RefusedError(400, "the request carries several API keys", code="several_api_keys")
    return key[: MAX_KEY_LENGTH + 1]


def parse_bearer(value: str) -> str:
    """Return the key of an ``Authorization`` header; empty if it has none."""
    scheme, _, key = value.partition(" ")
    # What came several times is left for the caller to see, even if the first is of another scheme.
    return key.strip(" ") if scheme.lower() == "bearer" else value if "," in value else ""


def _is_address(name: str) -> bool:
    try:
        if name.startswith("["):
            IPv6Address(name[1:-1])
        else:
            IPv4Address(name)
    except AddressValueError:
        return False
    return True


def _unauthorised(message: str, *, error: str = "") -> RefusedError:
    challenge = f'{_CHALLENGE}, error="{error}"' if error else _CHALLENGE
    return RefusedError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": challenge})


def _forbidden(message: str) -> RefusedError:
    return RefusedError(403, message, code="foreign_origin")
