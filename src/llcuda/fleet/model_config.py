"""How one model is served: from what, by how many llama-servers, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llcuda.transport.address import parse_address

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.transport.address import Address

__all__ = ["ModelConfig", "RemoteConfig"]


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """A worker on another machine, or all those that a name leads to."""

    url: str
    """``http://HOST:PORT`` or ``https://HOST:PORT`` of a llama-server, or of a gateway that serves a model of the same
    name; ``dns://NAME:PORT`` for each address of a name, over HTTP."""
    key: str | None = field(default=None, repr=False)
    """The API key that it asks for."""
    key_file: Path | None = None
    """Where the key came from."""

    @property
    def is_name(self) -> bool:
        """Whether its addresses are looked up again and again."""
        return self.url.startswith("dns://")

    @property
    def address(self) -> Address:
        """Where it is; of a name, the host is the name. Raises UsageError."""
        return parse_address(f"http{self.url.removeprefix('dns')}" if self.is_name else self.url)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model that is served, and how: the same options as :meth:`llcuda.InferenceEngine.load_model` takes."""

    name: str
    """What requests call it."""
    model: str
    """What :func:`llcuda.models.resolve_model` finds it by."""
    workers: int = 1
    """The number of llama-servers on this machine."""
    remotes: tuple[RemoteConfig, ...] = ()
    """Workers on other machines. With ``workers=0`` there are no others, and ``model`` is not looked for."""
    slots: int = 4
    """Requests that one llama-server answers at the same time; its ``--parallel``."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:N`` or ``cpu``; ``auto`` and ``cuda`` spread several workers over the GPUs."""
    ctx_size: int | None = None
    """Tokens of context of each slot."""
    gpu_layers: int | None = None
    threads: int | None = None
    """CPU threads of each llama-server; None shares the cores among the workers."""
    on_demand: bool = False
    """Whether it is started with its first request, not with the gateway."""
    idle_timeout: float | None = None
    """Seconds without a request after which it is unloaded; None keeps it."""
    server_options: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    """Other names that requests may call it."""
