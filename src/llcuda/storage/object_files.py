"""A bucket as a remote: S3 and what speaks its protocol, Google's and Azure's, through obstore.

Credentials come from the environment variables and the machine's role that obstore knows, and from the files that boto3
reads if boto3 is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llcuda.errors import StorageError
from llcuda.storage.pieces import CHUNK_BYTES
from llcuda.storage.remote import InterruptedTransferError
from llcuda.storage.upload_claim import claim_upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ObjectStore

    from llcuda.storage.pieces import Upload

__all__ = ["ObjectFiles"]

_PIECE_BYTES = 1 << 20
_RETRIES = {
    "max_retries": 100,
    "retry_timeout": timedelta(minutes=2),
    # obstore's own would be through within two seconds; a server needs longer to start again.
    "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=5), "base": 2},
}
_CONNECT_TIMEOUT = timedelta(seconds=10)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_UPLOADS = 4
"""Parts of a file that go at a time, from memory."""


class ObjectFiles:
    """The objects under a prefix of a bucket."""

    def __init__(self, url: str) -> None:
        """Use an ``s3://``, ``gs://`` or ``az://`` address. Nothing is asked before something is wanted."""
        self.url = url.rstrip("/")

    @cached_property
    def _store(self) -> ObjectStore:
        from obstore.store import from_url  # noqa: PLC0415 - loaded only when needed

        options: dict[str, Any] = {
            # An endpoint of one's own may have no certificate; the clouds' have.
            "client_options": {
                "allow_http": any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS),
                "connect_timeout": _CONNECT_TIMEOUT,
            },
            "retry_config": _RETRIES,
        }
        if urlsplit(self.url).scheme == "s3" and "AWS_ACCESS_KEY_ID" not in os.environ and _has_boto3():
            from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

            options["credential_provider"] = Boto3CredentialProvider()
        with self._translating(""):
            return from_url(self.url, **options)

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes an object has, or None if there is none."""
        with self._translating(key), contextlib.suppress(FileNotFoundError):
            return int(self._store.head(key)["size"])
        return None

    def read_range(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of an object."""
        try:
            answer = self._store.get(key, options={"range": (start, end)})
            for piece in answer.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)
        except (StorageError, FileNotFoundError) as error:
            raise self._refuse(key, error) from None
        except _errors() as error:
            raise InterruptedTransferError(str(self._refuse(key, error))) from None

    def put(self, key: str, upload: Upload) -> None:
        """Upload a file, in parts if it is large; a part that breaks off is sent again."""
        with self._translating(key):
            if upload.bytes <= CHUNK_BYTES:
                self._create(key, b"".join(upload.pieces()))
            else:
                self._put_once(key, upload)

    def _put_once(self, key: str, upload: Upload) -> None:
        def is_there() -> bool:
            return self.find_bytes(key) == upload.bytes

        with claim_upload(self._store, key, is_there=is_there) as is_ours:
            if is_ours and not is_there():
                self._store.put(key, upload.pieces(), chunk_size=CHUNK_BYTES, max_concurrency=_UPLOADS)

    def write(self, key: str, data: bytes) -> None:
        """Keep a small object, in place of what was there."""
        with self._translating(key):
            self._store.put(key, data, use_multipart=False)

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the objects directly under a prefix."""
        with self._translating(folder):
            found = self._store.list_with_delimiter(f"{folder}/")["objects"]
        return [str(one["path"]).rpartition("/")[2] for one in found]

    def _create(self, key: str, data: bytes) -> None:
        """Keep a small object if there is none, whoever else does so at this moment."""
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415 - loaded only when needed

        try:
            self._store.put(key, data, mode="create")
        except AlreadyExistsError:
            if self.find_bytes(key) != len(data):
                self.write(key, data)  # somebody kept something else there

    @contextlib.contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        try:
            yield
        except _errors() as error:
            raise self._refuse(key, error) from None

    def _refuse(self, key: str, error: Exception) -> StorageError:
        if isinstance(error, StorageError):
            return error
        reason = " ".join(str(error).split("\n\nDebug source:")[0].split())
        hint = _HINTS.get(type(error).__name__, "Check the address, the network and the credentials.")
        return StorageError(f"{self.url}/{key}".rstrip("/") + f": {type(error).__name__}: {reason[:400]}", hint=hint)


_HINTS = {
    **dict.fromkeys(
        ("UnauthenticatedError", "PermissionDeniedError"),
        "Set the credentials that the bucket wants: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3, "
        "GOOGLE_APPLICATION_CREDENTIALS for Google's, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for "
        "Azure's.",
    ),
    "NotFoundError": "Check the name of the bucket.",
}


def _errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError  # noqa: PLC0415 - loaded only when needed

    return (BaseError, OSError, ValueError)


def _has_boto3() -> bool:
    return importlib.util.find_spec("boto3") is not None
