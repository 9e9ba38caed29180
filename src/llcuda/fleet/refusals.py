"""What a client is told when its request is not answered: one envelope, as OpenAI's API writes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RefusedError"]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}


class RefusedError(Exception):
    """A request that is answered with an error. It stays within the gateway: connections turn it into an answer.

    ``status`` is HTTP's, ``code`` a word for programs (``queue_full``), ``headers`` what the answer carries besides,
    ``Retry-After`` for one. ``close`` ends the connection after the answer, if the rest of the request is unread.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.close = close
        super().__init__(f"HTTP {status}: {message}")

    def without_frames(self) -> RefusedError:
        """Return the same to be kept: what was raised leads to the frames it passed through, and these hold bodies."""
        more = {"code": self.code, "param": self.param}
        return RefusedError(self.status, self.message, **more, headers=self.headers, close=self.close)

    @property
    def kind(self) -> str:
        """The ``type`` of the envelope, which follows from the status."""
        return _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")  # noqa: PLR2004

    def envelope(self) -> bytes:
        """Return the body: ``{"error": {"message", "type", "param", "code"}}``."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode()
