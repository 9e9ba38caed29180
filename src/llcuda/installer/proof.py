"""Prove on this machine that binaries work: the GPU is listed, the demo model is on it, and its answers are right.

Nothing else uses the binaries until that is done.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from llcuda.client import InferenceClient
from llcuda.devices import visible_devices
from llcuda.errors import InstallError, LlcudaError
from llcuda.models import resolve_model
from llcuda.native import read_backend
from llcuda.server import ServerManager
from llcuda.server.offload import read_offload

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.devices import BackendChoice
    from llcuda.native import Backend
    from llcuda.server.offload import Offload

_QUESTIONS = (("What is 2+2?", "4"), ("What is 17+25?", "42"), ("What is the capital of France?", "Paris"))
_TOKENS = 128
_CONTEXT = 512
_ALL_LAYERS = 99  # not llama-server's to choose: it leaves 1 GiB free, and so leaves out a GPU that has no more
_TIMEOUT = 600.0
"""Seconds to load: a driver that compiles PTX takes minutes, once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """What was seen when the binaries were tried."""

    device: str
    """``cuda`` or ``cpu``."""
    gpus: tuple[str, ...]
    """The names of the GPUs that hold the model."""
    layers_on_gpu: int
    tokens_per_sec: float
    """Decoding the demo model, which is far too small for what a GPU is good at."""
    cpu_tokens_per_sec: float | None
    """The same on the CPU in the same minute; None if it is the CPU that was tried."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {**dataclasses.asdict(self), "gpus": list(self.gpus)}


def prove(folder: Path, *, choice: BackendChoice | None, owner: Path, source: str) -> Proof:
    """Load the demo model with the binaries in ``folder``, ask it three questions, and time it.

    ``choice`` names the GPUs for a CUDA backend, which runs with the executables in ``owner``; without one, ``folder``
    has executables of its own. Raises InstallError, with the last lines of the log, if anything is wrong.
    """
    try:
        if choice is None:
            return Proof("cpu", (), 0, _try(folder, None, visible=None, source=source)[1], None)
        return _prove_backend(read_backend(folder, owner), choice, owner=owner, source=source)
    except InstallError:
        raise
    except LlcudaError as error:
        reason = f"it does not work here: {error}"
        hint = f"What was in use before still is. {error.hint}".strip()
        raise InstallError(source, reason, log_tail=error.log_tail, hint=hint) from error


def _prove_backend(backend: Backend, choice: BackendChoice, *, owner: Path, source: str) -> Proof:
    _, cpu_speed = _try(owner, None, visible=None, source=source)
    offload, speed = _try(owner, backend, visible=visible_devices(choice), source=source)
    return Proof("cuda", tuple(gpu.name for gpu in choice.gpus), offload.layers_on_gpu or 0, speed, cpu_speed)


def _try(executables: Path, backend: Backend | None, *, visible: str | None, source: str) -> tuple[Offload, float]:
    with ServerManager(folder=executables) as server:
        server.start_server(
            resolve_model("demo", progress=False).path,
            backend=backend,
            visible_devices=visible,
            gpu_layers=_ALL_LAYERS,
            ctx_size=_CONTEXT,
            threads=1,
            timeout=_TIMEOUT,
            stall_timeout=_TIMEOUT,
        )
        offload = read_offload(server.log)
        if backend and offload.verdict not in {"full", "partial"}:
            reason = f"the demo model did not get onto the GPU: {offload.why_not}"
            raise InstallError(source, reason, log_tail=server.log_tail)
        with InferenceClient(url=server.url, api_key=server.api_key, max_retries=0) as client:
            _check_answers(client, server, source=source)
            return offload, _measure(client)


def _check_answers(client: InferenceClient, server: ServerManager, *, source: str) -> None:
    for question, expected in _QUESTIONS:
        answer = client.infer(question, temperature=0, max_tokens=32).text
        if expected not in answer:
            raise InstallError(
                source, f"it computes wrongly here: {question} was answered {answer!r}", log_tail=server.log_tail
            )


def _measure(client: InferenceClient) -> float:
    """Return the tokens a second of decoding of a long answer."""
    return round(client.complete("Count:", max_tokens=_TOKENS, ignore_eos=True, temperature=0).tokens_per_sec, 1)
