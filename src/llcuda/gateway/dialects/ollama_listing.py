"""What Ollama's clients ask about the models and the release, answered by the gateway itself."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from llcuda.fleet.dispatch.worker import fetch
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.served_model import find_model
from llcuda.gateway.api.fields import read_known
from llcuda.gateway.dialects.ollama_answers import read_now
from llcuda.gateway.dialects.ollama_requests import find_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Listing"]

RELEASE = "0.13.5"
"""The release of Ollama whose API this is: editors ask for one that is new enough."""
_OK = 200
_FOR_EVER = "9999-12-31T23:59:59Z"
_MILLION = 10**6
_HOW_TO_CHOOSE = "Get another with `llcuda models pull NAME`, and start `llcuda serve -m NAME`."


class Listing:
    """The addresses of Ollama's API that no worker answers."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        """Tell of these models."""
        self._models = models
        self._began = read_now()

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints that are answered here."""
        return {
            "ollama_tags": self._list,
            "ollama_ps": self._list_loaded,
            "ollama_show": self._show,
            "ollama_version": self._tell_release,
            "ollama_pull": self._pull,
            "ollama_managed": self._refuse,
        }

    async def _list(self, exchange: Exchange) -> None:
        models = [{**self._describe(model), "modified_at": self._began} for model in self._models.values()]
        _respond(exchange, {"models": models})

    async def _list_loaded(self, exchange: Exchange) -> None:
        loaded = [model for model in self._models.values() if model.workers]
        _respond(exchange, {"models": [self._describe_loaded(model) for model in loaded]})

    async def _show(self, exchange: Exchange) -> None:
        given = read_known(exchange.body, ("model", "name", "verbose"))
        model = self._find(given)
        props = await _read_props(model)
        told = {
            "modelfile": f"# served by llcuda\nFROM {model.name}\n",
            "parameters": "",
            "template": props.get("chat_template", ""),
            "details": _describe_file(model),
            "model_info": _describe_header(model),
            "capabilities": _find_capabilities(props),
            "modified_at": self._began,
        }
        _respond(exchange, told)

    async def _pull(self, exchange: Exchange) -> None:
        """Say that a model is here, which clients ask before they use it."""
        given = read_known(exchange.body, ("model", "name", "insecure", "stream"))
        try:
            self._find(given)
        except RefusedError:
            await self._refuse(exchange)
        _respond(exchange, {"status": "success"})

    def _find(self, given: Mapping[str, Any]) -> ServedModel:
        """Return the model that a body names. Raises RefusedError (404)."""
        name = find_name(str(given.get("model") or given.get("name") or ""))
        if not name:
            raise RefusedError(404, "the body names no model", code="model_not_found", param="model")
        return find_model(self._models, name)

    async def _refuse(self, exchange: Exchange) -> None:
        names = ", ".join(self._models)
        reason = f"models are chosen when the gateway starts, and {exchange.path} does nothing here; there is {names}"
        raise RefusedError(404, f"{reason}. {_HOW_TO_CHOOSE}", code="not_found")

    async def _tell_release(self, exchange: Exchange) -> None:
        _respond(exchange, {"version": RELEASE})

    @staticmethod
    def _describe(model: ServedModel) -> dict[str, Any]:
        file = model.fleet.model
        # Clients know a model by it, and show its first digits; the file itself would have to be read whole.
        digest = hashlib.sha256(model.name.encode()).hexdigest()
        size = file.info.file_bytes if file else 0
        return {
            "name": model.name, "model": model.name, "size": size, "digest": digest, "details": _describe_file(model)
        }  # fmt: skip

    def _describe_loaded(self, model: ServedModel) -> dict[str, Any]:
        reports = [replica.device_report for replica in model.fleet.replicas]
        on_gpu = any(report is not None and report.device == "cuda" for report in reports)
        described = self._describe(model)
        size = described["size"] if on_gpu else 0
        file = model.fleet.model
        context = model.config.ctx_size or (file.info.context_length if file else None) or 0
        return {**described, "size_vram": size, "context_length": context, "expires_at": _FOR_EVER}


def _describe_file(model: ServedModel) -> dict[str, Any]:
    """Return what a model's file says of it; nothing of one that is not loaded here."""
    info = model.fleet.model.info if model.fleet.model else None
    return {
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture if info else "",
        "families": [info.architecture] if info else [],
        "parameter_size": f"{info.parameters / _MILLION:.4g}M" if info else "",
        "quantization_level": info.quantisation if info else "",
    }


def _describe_header(model: ServedModel) -> dict[str, Any]:
    file = model.fleet.model
    if file is None:
        return {}
    return {"general.parameter_count": file.info.parameters, **file.info.metadata}


async def _read_props(model: ServedModel) -> dict[str, Any]:
    worker = model.choose_any()
    answer = await fetch(worker, "/props") if worker else None
    try:
        props = json.loads(answer.body) if answer and answer.status == _OK else {}
    except (ValueError, RecursionError):
        props = {}
    return props if type(props) is dict else {}


def _find_capabilities(props: Mapping[str, Any]) -> list[str]:
    """Return what a model can do, in Ollama's words."""
    can = {
        "tools": (props.get("chat_template_caps") or {}).get("supports_tools"),
        "vision": (props.get("modalities") or {}).get("vision"),
    }
    return ["completion", *(name for name, is_there in can.items() if is_there)]


def _respond(exchange: Exchange, value: object) -> None:
    exchange.respond(_OK, json.dumps(value, ensure_ascii=False).encode())
