"""One load of a model: its options, the start of llama-server, and if memory runs out, the next with less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.engine.draft import raise_if_refused
from llcuda.engine.ladder import Rung, list_rungs
from llcuda.engine.placement import choose_fit_target, settle
from llcuda.engine.report import check_report, make_report
from llcuda.errors import BinaryUnusableError, LlcudaError, OutOfMemoryError, UsageError
from llcuda.gguf import can_quantise_cache
from llcuda.native import check_binaries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llcuda.engine.draft import Draft
    from llcuda.engine.placement import Placement
    from llcuda.engine.report import DeviceReport
    from llcuda.models import ModelFile
    from llcuda.server import ServerManager

_FALLBACKS = ("auto", "error")
# Below this size the threads' barriers cost more than the threads bring, and everything if other processes want the
# cores: the demo model made 4,000 tokens/s with one thread and 5 with two, on two busy cores.
_ONE_THREAD_PARAMETERS = 20_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """A model, where it runs, and with which options."""

    model: ModelFile
    placement: Placement
    options: dict[str, Any]
    """llama-server's."""
    fallback: str = "auto"
    """``auto``, or ``error`` to take no step down."""
    draft: Draft | None = None
    """What drafts with these options."""
    keep_draft: bool = False
    """Whether the draft model is no step down."""


def check_fallback(fallback: str) -> None:
    """Raise UsageError for what is neither ``auto`` nor ``error``."""
    if fallback not in _FALLBACKS:
        raise UsageError(f"fallback={fallback!r} is unknown", hint='Use "auto" or "error".')


def require_whole_binaries() -> None:
    """Raise BinaryUnusableError if the executables are not whole."""
    for problem in check_binaries():
        raise BinaryUnusableError(problem.path, problem.what, hint=problem.remedy)


def complete_options(model: ModelFile, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with what the environment and the model add to them."""
    completed = dict(options)
    if completed.get("threads") is None:
        completed["threads"] = settings.get_count("LLAMACPP_N_THREADS")
    if completed["threads"] is None and model.info.parameters < _ONE_THREAD_PARAMETERS:
        completed["threads"] = 1
    if model.mmproj is not None:
        completed.setdefault("mmproj", model.mmproj)
    if options.get("embeddings") and options.get("pooling") is None:
        # llama-server refuses to pool for a model that does not say how.
        known = model.info.metadata.get(f"{model.info.architecture}.pooling_type")
        completed["pooling"] = None if known else "mean"
    return completed


def can_chat(model: ModelFile, options: Mapping[str, Any]) -> bool:
    """Return whether the model, or who loads it, says how a conversation is written down for it.

    llama-server would take ChatML for any other, whose marks such a model has never seen, and answers with.
    """
    return model.info.has_chat_template or any(options.get(name) for name in ("chat_template", "chat_template_file"))


def start(server: ServerManager, load: Load, **place: Any) -> DeviceReport:
    """Start ``server`` with the model, and return what is used and what was done without.

    ``place`` is where it listens. Raises what start_server raises, and if every step ran out of memory, the
    OutOfMemoryError of the last with what was tried in its hint; DraftMismatchError, and NoDeviceError if a GPU is
    required and nothing is on it. Nothing is left running then.
    """
    from llcuda.server.offload import read_offload  # noqa: PLC0415 - loaded while llama-server was loading

    placement, steps = _start_with_less(server, load, {**load.options, **place})
    report = make_report(placement, read_offload(server.log), steps=steps)
    try:
        if load.draft:
            raise_if_refused(load.draft, server.log)
        check_report(report, required=load.placement.required, log_tail=server.log_tail)
    except LlcudaError:
        server.stop_server()
        raise
    return report


def _start_with_less(server: ServerManager, load: Load, options: dict[str, Any]) -> tuple[Placement, tuple[str, ...]]:
    """Return where it runs, and the steps that were taken down."""
    place, projector, steps = load.placement, load.model.mmproj, list[str]()
    current = {"fit_target": choose_fit_target(place.choice.gpus), **options}
    rungs = list(_list_rungs(load) if load.fallback == "auto" else ())
    while True:
        placed: dict[str, Any] = {"backend": place.backend, "visible_devices": place.visible_devices}
        try:
            server.start_server(load.model.path, **placed, **current)
        except OutOfMemoryError as error:
            if not rungs:
                raise _with_steps(error, steps) from error
            rung = rungs.pop(0)
            _warn(error, f"Trying again: {rung.sentence}")
            settle(place)
            if rung.on_cpu:
                place, steps, current = place.on_cpu(), [], options
            steps.append(rung.sentence)
            current = {**current, **rung.options}
        except LlcudaError as error:
            is_asked_for = current.get("mmproj") is not projector
            if projector is None or is_asked_for:
                raise
            _warn(error, f"Trying again without the projector {projector.name}")
            options, current = {**options, "mmproj": None}, {**current, "mmproj": None}
        else:
            return place, tuple(steps)


def _list_rungs(load: Load) -> tuple[Rung, ...]:
    return list_rungs(
        load.options,
        layers=load.model.info.layers,
        context=load.model.info.context_length,
        on_gpu=load.placement.backend is not None,
        may_use_cpu=not load.placement.required,
        may_quantise=can_quantise_cache(load.model.info),
        may_drop_draft=load.draft is not None and load.draft.model is not None and not load.keep_draft,
    )


def _warn(error: LlcudaError, change: str) -> None:
    from logging import getLogger  # noqa: PLC0415 - kept out of the import

    getLogger("llcuda").warning("%s. %s.", error.message.rstrip("."), change)


def _with_steps(error: OutOfMemoryError, steps: Sequence[str]) -> OutOfMemoryError:
    if steps:
        error.hint = f"Tried without success: {'; '.join(steps)}. {error.hint}"
    return error
