"""Run the asyncio client as if it were the blocking one, so that one test holds for both."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from llcuda.client import AsyncInferenceClient, AsyncTextStream, InferenceClient

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from typing_extensions import Self


class BlockingStream:
    """An ``AsyncTextStream`` in the clothes of a ``TextStream``."""

    def __init__(self, stream: AsyncTextStream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return self._loop.run_until_complete(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_all(self) -> Any:
        return self._loop.run_until_complete(self._stream.read_all())

    def close(self) -> None:
        self._loop.run_until_complete(self._stream.close())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class BlockingClient:
    """An ``AsyncInferenceClient`` in the clothes of an ``InferenceClient``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncInferenceClient(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        return self._wrap(member) if callable(member) else member

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _wrap(self, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            found = method(*arguments, **options)
            if inspect.iscoroutine(found):
                return self._run(found)
            return BlockingStream(found, self._loop) if isinstance(found, AsyncTextStream) else found

        return call

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)


CLIENTS: dict[str, Any] = {"blocking": InferenceClient, "asyncio": BlockingClient}
