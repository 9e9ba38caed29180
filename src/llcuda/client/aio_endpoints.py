"""What a server is asked besides to generate, for asyncio: the twin of ``endpoints``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.client import requests
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llcuda.client.results import RerankResult

__all__ = ["AsyncEndpoints"]

T = TypeVar("T")


class AsyncEndpoints:
    """The methods of a client whose answers are read whole. How a call is sent is the client's."""

    async def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in their order; for a single string, a list with one vector."""
        return await self._call(requests.embed(texts))

    async def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> list[RerankResult]:
        """Return how well each document answers the query, the best first."""
        return await self._call(requests.rerank(query, documents, top_n=top_n))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text; ``add_special`` puts those before it that a prompt begins with."""
        return await self._call(requests.tokenize(text, add_special=add_special, parse_special=parse_special))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return await self._call(requests.detokenize(tokens))

    async def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that the model's chat template makes of messages."""
        return await self._call(requests.apply_template(messages))

    async def health(self) -> dict[str, Any]:
        """Return ``{"status": "ok"}``, or raise: ResponseError with status 503 while the model is being loaded."""
        return await self._call(requests.health())

    async def is_healthy(self) -> bool:
        """Return whether the server can answer now: false where nobody listens, and while the model is loaded."""
        try:
            return (await self.health()).get("status") == "ok"
        except (ConnectionFailedError, RequestTimeoutError, ResponseError):
            return False

    async def props(self) -> dict[str, Any]:
        """Return llama-server's properties: the model, its chat template, the number of slots, defaults."""
        return await self._call(requests.props())

    async def models(self) -> list[dict[str, Any]]:
        """Return the models that are served."""
        return await self._call(requests.models())

    async def slots(self) -> list[dict[str, Any]]:
        """Return what each slot is doing."""
        return await self._call(requests.slots())

    async def metrics(self) -> dict[str, float]:
        """Return llama-server's own counters by their Prometheus names; it has to be started with ``metrics=True``."""
        return await self._call(requests.metrics())

    async def lora_adapters(self) -> list[dict[str, Any]]:
        """Return the LoRA adapters that are loaded, with their scales."""
        return await self._call(requests.lora_adapters())

    async def set_lora_adapters(self, scales: Mapping[int, float]) -> None:
        """Set the scales of the LoRA adapters by their ids; 0 switches one off."""
        await self._call(requests.set_lora_adapters(scales))

    async def save_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Save a slot's cache to a file in the server's ``slot_save_path``."""
        return await self._call(requests.slot_action(slot, "save", filename=filename))

    async def restore_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Restore a slot's cache from a file in the server's ``slot_save_path``."""
        return await self._call(requests.slot_action(slot, "restore", filename=filename))

    async def erase_slot(self, slot: int) -> dict[str, Any]:
        """Erase a slot's cache."""
        return await self._call(requests.slot_action(slot, "erase", filename=None))

    async def _call(self, call: requests.Call[T]) -> T:
        """Send a call and read its answer."""
        raise NotImplementedError

    async def _count_slots(self) -> int:
        return int((await self.props()).get("total_slots", 1))
