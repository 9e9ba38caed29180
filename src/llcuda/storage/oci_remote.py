"""A repository of an OCI registry as a remote, whose tags are the models' names.

It keeps the CNCF's ModelPack artifacts, as the store on this disk does, and gives Docker's, too. Who may is oras's
matter: it reads the logins that docker, podman, skopeo and oras itself keep, and asks for tokens.
"""

from __future__ import annotations

import io
import json
import logging
import re
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from llcuda import settings
from llcuda.errors import StorageError, UsageError
from llcuda.storage.http_requests import FOUND, MISSING, HttpRequests
from llcuda.storage.pieces import CHUNK_BYTES
from llcuda.store import parse_digest
from llcuda.store.layout import DOCUMENT_TYPES, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import requests

    from llcuda.storage.pieces import Upload

__all__ = ["OciRemote"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")
_HUB, _HUB_API = "docker.io", "registry-1.docker.io"
_CREATED, _ACCEPTED, _NO_CONTENT, _BAD_REQUEST, _WRONG_RANGE = 201, 202, 204, 400, 416
_MAX_LISTING_BYTES = 16 << 20
_MAX_PAGES = 1000
_ATTEMPTS = 6
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_log = logging.getLogger("llcuda")
_LINK = re.compile(r'<([^>]+)>; *rel="?next"?')
_LOGIN = "Log in with docker login, podman login, skopeo login or oras login: what they keep is used."
_HINTS = {
    **dict.fromkeys((401, 403), _LOGIN),
    404: "Check the name of the repository.",
    405: "The registry takes no uploads.",
    413: "Let the server before the registry take larger bodies.",
}


class OciRemote:
    """The models of a repository."""

    def __init__(self, url: str) -> None:
        """Use the repository of an ``oci://`` address without a tag. Nothing is asked before something is wanted.

        A registry on this machine is asked without TLS, as docker does; others are if it is ``oci+http://``.
        """
        self.url = url
        parts = urlsplit(url)
        self._host = parts.netloc
        is_plain = parts.scheme == "oci+http" or _LOOPBACK.fullmatch(parts.hostname or "")
        host = _HUB_API if parts.netloc == _HUB else parts.netloc
        self._api = f"{'http' if is_plain else 'https'}://{host}/v2{parts.path}"
        self._is_plain = bool(is_plain)
        self._requests = HttpRequests(_HINTS, authorise=self._authorise)

    def find_bytes(self, digest: str) -> int | None:
        """Return how many bytes the file with this digest has, or None if there is none."""
        return self._requests.find_bytes(f"{self._api}/blobs/{digest}")

    def read_range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        return self._requests.read_range(f"{self._api}/blobs/{digest}", start, end)

    def put(self, digest: str, upload: Upload) -> None:
        """Upload a file in parts; if the connection breaks, from the part that the registry lacks."""
        session = self._begin_upload()
        position, futile = 0, 0
        while position < upload.bytes:
            end = min(position + CHUNK_BYTES, upload.bytes)
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{position}-{end - 1}"}
            fine = (_ACCEPTED, _CREATED, _NO_CONTENT, _WRONG_RANGE)
            try:
                with self._requests.ask(
                    "PATCH", session, fine=fine, headers=headers, attempts=1,
                    open_body=partial(upload.open, position, end),
                ) as answer:  # fmt: skip
                    is_kept = answer.status_code != _WRONG_RANGE
                    session = self._find_session(session, answer) if is_kept else session
            except StorageError:
                futile += 1
                if futile >= _ATTEMPTS:
                    raise
                is_kept = False
            before, position = position, end
            if not is_kept:
                position, session = self._find_position(session)
            futile = 0 if position > before else futile
        closing = f"{session}{'&' if '?' in session else '?'}digest={digest}"
        with self._requests.ask("PUT", closing, fine=(_CREATED, _NO_CONTENT), headers={"Content-Length": "0"}):
            pass

    def _begin_upload(self) -> str:
        """Return the address to which the first part goes."""
        address = f"{self._api}/blobs/uploads/"
        with self._requests.ask("POST", address, fine=(_ACCEPTED,)) as answer:
            return self._find_session(address, answer)

    def _find_position(self, session: str) -> tuple[int, str]:
        """Return how many bytes of an upload the registry has, and where the next go."""
        with self._requests.ask("GET", session, fine=(_NO_CONTENT, _ACCEPTED, _BAD_REQUEST, *MISSING)) as answer:
            if answer.status_code not in {_NO_CONTENT, _ACCEPTED}:
                return 0, self._begin_upload()  # a registry that was started anew may know it no more
            found = _RANGE.fullmatch(answer.headers.get("range", ""))
            following = self._find_session(session, answer)
        last = int(found[1]) if found else 0
        return last + 1 if last else 0, following

    def _find_session(self, address: str, answer: requests.Response) -> str:
        """Return the address to which an upload goes on, which is the registry's or one that it trusts."""
        given = answer.headers.get("location")
        following = urljoin(address, given) if given else address
        if not following.startswith("http://" if self._is_plain else "https://") and not following.startswith("https:"):
            raise StorageError(f"{self.url}: the registry sends the upload to {following[:200]!r}")
        return following

    def require_name(self, name: str) -> None:
        """Raise UsageError for what cannot be a tag."""
        if not _TAG.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a tag of a registry, which has letters, digits, dots, dashes and underscores",
                hint="Give the model such a name too, with `llcuda models tag`, or push it to oci://HOST/REPOSITORY:TAG.",
            )

    def read_manifest(self, name: str, *, max_bytes: int) -> bytes | None:
        """Return the manifest of a tag, or with a digest, or None if there is none."""
        is_digest = name.startswith("sha256:")
        if not is_digest and not _TAG.fullmatch(name):
            return None
        address = f"{self._api}/manifests/{parse_digest(name) if is_digest else name}"
        headers = {"Accept": ", ".join(DOCUMENT_TYPES)}
        with self._requests.ask("GET", address, fine=(FOUND, *MISSING), headers=headers) as answer:
            if answer.status_code in MISSING:
                return None
            document = self._requests.read_small(answer, address, max_bytes=max_bytes)
        if is_digest and digest_of(document) != name:
            raise StorageError(f"{address}: the registry sends another manifest, {digest_of(document)}")
        return document

    def write_manifest(self, name: str, document: bytes) -> None:
        """Let a tag lead to a model."""
        address = f"{self._api}/manifests/{name}"
        headers = {"Content-Type": json.loads(document).get("mediaType", DOCUMENT_TYPES[0])}
        with self._requests.ask(
            "PUT", address, fine=(FOUND, _CREATED), headers=headers, open_body=lambda: io.BytesIO(document)
        ):
            pass

    def list_names(self) -> list[str]:
        """Return the tags of the repository."""
        names: list[str] = []
        address = f"{self._api}/tags/list"
        for _ in range(_MAX_PAGES):
            with self._requests.ask("GET", address, fine=(FOUND, *MISSING)) as answer:
                if answer.status_code in MISSING:
                    return names
                data = self._requests.read_small(answer, address, max_bytes=_MAX_LISTING_BYTES)
                following = _LINK.search(answer.headers.get("link", ""))
            try:
                names += [str(tag) for tag in json.loads(data).get("tags") or ()]
            except (ValueError, RecursionError, AttributeError, TypeError):
                raise StorageError(f"{address}: the listing cannot be read") from None
            if following is None:
                break
            address = urljoin(address, following[1])
            if not address.startswith(self._api):
                raise StorageError(f"{self.url}: the registry goes on with its listing at {address[:200]!r}")
        return names

    def _authorise(self, answer: requests.Response) -> Mapping[str, str]:
        """Return the headers that a registry wants, which has answered 401."""
        try:
            import oras.auth  # noqa: PLC0415 - loaded only when needed
            import oras.container  # noqa: PLC0415
        except ImportError:
            raise StorageError(
                f"{self.url}: the registry wants a login", hint="Install what logs in: pip install 'llcuda[oci]'"
            ) from None
        challenge = answer.headers.get("www-authenticate", "").partition(" ")[0].lower()
        login = oras.auth.get_auth_backend("basic" if challenge == "basic" else "token", insecure=self._is_plain)
        try:
            login.load_configs(oras.container.Container(f"{self._host}/x"), configs=_find_logins())
            headers, is_changed = login.authenticate_request(answer, {})
        except Exception as error:  # noqa: BLE001 - it raises ValueError, KeyError and requests' own
            _log.debug("the login at %s fails: %r", self._host, error)
            is_changed, headers = False, {}
        if not is_changed:
            raise StorageError(f"{self.url}: the registry wants a login, and there is none for it", hint=_LOGIN)
        return dict(headers)


def _find_logins() -> list[str]:
    """Return the files in which logins are kept, beside ``~/.docker/config.json``."""
    docker, podman = settings.get_path("DOCKER_CONFIG"), settings.get_path("REGISTRY_AUTH_FILE")
    runtime = settings.get_path("XDG_RUNTIME_DIR")
    candidates = [docker and docker / "config.json", podman, runtime and runtime / "containers" / "auth.json"]
    return [str(path) for path in candidates if path and path.is_file()]
