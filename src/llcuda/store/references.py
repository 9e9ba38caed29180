"""The address of a repository in an OCI registry, and of one model in it."""

from __future__ import annotations

import re

from llcuda.errors import UsageError

__all__ = ["split_reference"]

_REFERENCE = re.compile(
    r"(?P<scheme>oci|oci\+http)://(?P<host>[A-Za-z0-9.\-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def split_reference(url: str) -> tuple[str, str | None]:
    """Return the address of a repository, and the tag or the digest behind it. Raises UsageError."""
    found = _REFERENCE.fullmatch(url)
    if found is None:
        raise UsageError(
            f"{url!r} is not the address of a repository",
            hint="Write oci://HOST/REPOSITORY, in small letters, with :TAG or @sha256:… behind it for one model; "
            "oci+http:// for a registry without TLS.",
        )
    return f"{found['scheme']}://{found['host']}/{found['repository']}", found["digest"] or found["tag"]
