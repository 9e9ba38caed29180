"""One load of a model: what was asked for, kept for as often as llama-server has to be started for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llcuda import settings
from llcuda.engine.draft import raise_if_refused
from llcuda.engine.report import check_report, make_report
from llcuda.engine.start import settle, start_with_less
from llcuda.errors import BinaryUnusableError, LlcudaError, OutOfMemoryError, PortInUseError
from llcuda.native import check_binaries

if TYPE_CHECKING:
    from llcuda.engine.placement import Placement
    from llcuda.engine.report import DeviceReport
    from llcuda.engine.speculation import Speculation
    from llcuda.engine.start import Started
    from llcuda.models import ModelFile
    from llcuda.server import ServerManager

__all__ = ["Load", "complete_options", "first", "log", "require_whole_binaries", "restart", "start"]

# Below this size the threads' barriers cost more than the threads bring, and where other processes want the cores they
# cost everything: the demo model made 4,000 tokens/s with one thread and 5 with two, on two busy cores.
_ONE_THREAD_PARAMETERS = 20_000_000

_WITHOUT_DRAFT = "the draft model is left out"


@dataclass(frozen=True, slots=True)
class Load:
    """A model, where it runs, and with which options."""

    model: ModelFile
    placement: Placement
    options: dict[str, Any]
    """llama-server's; those of the draft are not among them."""
    fallback: str
    silent: bool
    speculation: Speculation | None = None


def start(server: ServerManager, load: Load, **place: Any) -> DeviceReport:
    """Start ``server`` with the model and the draft that is wanted, and return what is used.

    ``place`` is where it listens, where that is not to change. Raises what start_with_less and check_report raise, and
    DraftMismatchError; nothing is left running then.
    """
    from llcuda.server.offload import read_offload  # noqa: PLC0415 - loaded while llama-server was loading

    started = _start_drafting(server, load, place)
    speculation = load.speculation
    report = make_report(started.placement, read_offload(server.log), steps=started.steps)
    try:
        if speculation:
            raise_if_refused(speculation.draft, server.log)
        check_report(report, required=load.placement.required, log_tail=server.log_tail)
    except LlcudaError:
        server.stop_server()
        raise
    return report


def restart(server: ServerManager, load: Load, *, url: str, api_key: str | None) -> DeviceReport:
    """Start ``server`` anew with the same ``api_key``, and at the same ``url`` unless its port was taken since."""
    server.stop_server()
    settle(load.placement)
    try:
        return start(server, load, port=urlsplit(url).port, api_key=api_key)
    except PortInUseError:
        report = start(server, load, port=None, api_key=api_key)
        log(f"Another program has taken the port of {url}: the address is {server.url} now.", silent=load.silent)
        return report


def _start_drafting(server: ServerManager, load: Load, place: dict[str, Any]) -> Started:
    """Start ``server``; where the memory is too small for two models, the draft is the first thing to do without."""
    speculation = load.speculation
    if speculation is None or not speculation.may_be_left_out or load.fallback != "auto":
        return _start_once(server, load, place, fallback=load.fallback)
    try:
        return _start_once(server, load, place, fallback="error")
    except OutOfMemoryError as error:
        speculation.leave_out()
        log(f"{error.message}. Trying again: {_WITHOUT_DRAFT}.", silent=False)
        settle(load.placement)
        started = _start_once(server, load, place, fallback=load.fallback)
        return replace(started, steps=(_WITHOUT_DRAFT, *started.steps))


def _start_once(server: ServerManager, load: Load, place: dict[str, Any], *, fallback: str) -> Started:
    drafting = _draft_options(load.speculation, load.options) if load.speculation else {}
    options = {**load.options, **drafting, **place}
    return start_with_less(server, load.model, load.placement, options=options, fallback=fallback)


def _draft_options(speculation: Speculation, options: dict[str, Any]) -> dict[str, Any]:
    # Its devices are the model's, but its layers llama-server would place by itself: where the model's are kept off the
    # GPU, so are those of what drafts for it.
    placed = {"spec_draft_ngl": 0} if options.get("gpu_layers") == 0 else {}
    return {**placed, **speculation.options}


def complete_options(model: ModelFile, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with what the environment and the model add to them."""
    completed = dict(options)
    completed["threads"] = first(
        options.get("threads"),
        settings.get_count("LLAMACPP_N_THREADS"),
        1 if model.info.parameters < _ONE_THREAD_PARAMETERS else None,
    )
    if model.mmproj is not None:
        completed.setdefault("mmproj", str(model.mmproj))
    if options.get("embeddings") and options.get("pooling") is None:
        # llama-server refuses to pool for a model that does not say how.
        known = model.info.metadata.get(f"{model.info.architecture}.pooling_type")
        completed["pooling"] = None if known else "mean"
    return completed


def first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def require_whole_binaries() -> None:
    """Raise BinaryUnusableError where the executables are not whole."""
    for problem in check_binaries():
        raise BinaryUnusableError(problem.path, problem.what, hint=problem.remedy)


def log(text: str, *, silent: bool) -> None:
    """Log a line that people are to see, unless they asked for silence."""
    from logging import INFO, WARNING, getLogger  # noqa: PLC0415 - kept out of the import

    getLogger("llcuda").log(INFO if silent else WARNING, text)
