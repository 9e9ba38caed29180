"""What a server is asked besides to generate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.client import requests
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llcuda.client.results import RerankResult

__all__ = ["Endpoints"]

T = TypeVar("T")


class Endpoints:
    """The methods of a client whose answers are read whole. How a call is sent is the client's."""

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in their order; for a single string, a list with one vector."""
        return self._call(requests.embed(texts))

    def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> list[RerankResult]:
        """Return how well each document answers the query, the best first."""
        return self._call(requests.rerank(query, documents, top_n=top_n))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text; ``add_special`` puts those before it that a prompt begins with."""
        return self._call(requests.tokenize(text, add_special=add_special, parse_special=parse_special))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._call(requests.detokenize(tokens))

    def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that the model's chat template makes of messages."""
        return self._call(requests.apply_template(messages))

    def health(self) -> dict[str, Any]:
        """Return ``{"status": "ok"}``, or raise: ResponseError with status 503 while the model is being loaded."""
        return self._call(requests.health())

    def is_healthy(self) -> bool:
        """Return whether the server can answer now: false if nobody listens, and while the model is loaded."""
        try:
            return self.health().get("status") == "ok"
        except (ConnectionFailedError, RequestTimeoutError, ResponseError):
            return False

    def props(self) -> dict[str, Any]:
        """Return llama-server's properties: the model, its chat template, the number of slots, defaults."""
        return self._call(requests.props())

    def models(self) -> list[dict[str, Any]]:
        """Return the models that are served."""
        return self._call(requests.models())

    def slots(self) -> list[dict[str, Any]]:
        """Return what each slot is doing."""
        return self._call(requests.slots())

    def metrics(self) -> dict[str, float]:
        """Return llama-server's own counters by their Prometheus names; it has to be started with ``metrics=True``."""
        return self._call(requests.metrics())

    def lora_adapters(self) -> list[dict[str, Any]]:
        """Return the LoRA adapters that are loaded, with their scales."""
        return self._call(requests.lora_adapters())

    def set_lora_adapters(self, scales: Mapping[int, float]) -> None:
        """Set the scales of the LoRA adapters by their ids; 0 switches one off."""
        return self._call(requests.set_lora_adapters(scales))

    def save_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Save a slot's cache to a file in the server's ``slot_save_path``."""
        return self._call(requests.slot_action(slot, "save", filename=filename))

    def restore_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Restore a slot's cache from a file in the server's ``slot_save_path``."""
        return self._call(requests.slot_action(slot, "restore", filename=filename))

    def erase_slot(self, slot: int) -> dict[str, Any]:
        """Erase a slot's cache."""
        return self._call(requests.slot_action(slot, "erase", filename=None))

    def _call(self, call: requests.Call[T]) -> T:
        """Send a call and read its answer."""
        raise NotImplementedError
