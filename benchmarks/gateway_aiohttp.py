"""A streaming proxy the usual way, with aiohttp on both sides: what a gateway costs that nobody measured.

python benchmarks/gateway_aiohttp.py SOCKET PORT
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aiohttp import ClientSession, ClientTimeout, UnixConnector, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SESSION = web.AppKey("session", ClientSession)
_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


async def relay(request: web.Request) -> web.StreamResponse:
    """Ask upstream the same, and pass its answer on as it comes."""
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    session = request.app[_SESSION]
    url = f"http://upstream{request.path_qs}"
    async with session.request(request.method, url, headers=headers, data=await request.read()) as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def connect(app: web.Application) -> AsyncIterator[None]:
    """Hold one session for all requests."""
    connector = UnixConnector(sys.argv[1], limit=0, keepalive_timeout=4)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as session:
        app[_SESSION] = session
        yield


def main() -> None:
    """Serve until it is killed."""
    app = web.Application()
    app.cleanup_ctx.append(connect)
    app.router.add_route("*", "/{path:.*}", relay)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None)


if __name__ == "__main__":
    main()
