"""Run one model on one local llama-server, and talk to it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.client import InferenceClient
from llcuda.engine.draft import DraftReport, choose_draft
from llcuda.engine.ladder import WITHOUT_DRAFT
from llcuda.engine.load import Load, can_chat, check_fallback, complete_options, require_whole_binaries, start
from llcuda.engine.placement import check_split, choose_placement, settle
from llcuda.errors import ConnectionFailedError, LlcudaError, UsageError
from llcuda.metrics import RequestMetrics
from llcuda.models import resolve_model
from llcuda.server import ServerManager
from llcuda.server.arguments import check_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from llcuda.client import InferResult, TextStream
    from llcuda.engine.draft import Draft
    from llcuda.engine.report import DeviceReport
    from llcuda.models import ModelFile
    from llcuda.options import ChatOptions, InferOptions

# Seconds for a server that broke a connection to be seen dead: its crash is written down before it is reaped.
_DEATH_TIMEOUT = 1.0


class InferenceEngine:
    """Answer prompts with a model that this engine loads, or with a server that runs already.

    It is a context manager; leaving it stops the llama-server that it started, and so do garbage collection, the
    interpreter's exit and the death of this process. One engine may be used from several threads.
    """

    def __init__(self, server_url: str | None = None, *, api_key: str | None = None) -> None:
        """Attach to the server at ``server_url`` with its ``api_key``, or stay empty until :meth:`load_model`."""
        self._server = ServerManager()
        self._metrics = RequestMetrics()
        self._lock = threading.Lock()
        self._client = InferenceClient(url=server_url, api_key=api_key) if server_url else None
        self._attached = server_url is not None
        self.model: ModelFile | None = None
        self.device_report: DeviceReport | None = None
        """What is on a GPU and what is not, and why; None until this engine has loaded a model."""
        self.can_chat = True
        """Whether the model has a chat template, its own or one that it was loaded with; else it continues texts."""
        self.draft_report: DraftReport | None = None
        """Whether a draft is used, and what it brings; None if no model is loaded with one."""

    def load_model(
        self,
        name: str | PathLike[str],
        *,
        gpu_layers: int | None = None,
        ctx_size: int | None = None,
        n_parallel: int = 1,
        device: str = "auto",
        require_gpu: bool = False,
        fallback: str = "auto",
        draft: str | PathLike[str] | None = None,
        draft_keep: bool = False,
        verbose: bool | None = None,
        silent: bool = False,
        **server_options: Any,
    ) -> ModelFile:
        """Find the model, start llama-server with it, wait until it answers, and return which file it was.

        A model that was loaded before is unloaded once the options are known to be right and the new one is here.
        ``name`` is ``demo``, a path, a registry name, ``repo:file`` or ``repo`` on the hub, a URL, or ``sha256:…``.
        ``gpu_layers`` and ``ctx_size`` (tokens) are llama-server's to choose if they are None. ``device`` is ``auto``
        (a GPU if one can be used, else the CPU, said in one logged line), ``cuda`` or ``cuda:N`` (the N-th visible GPU,
        or an error), or ``cpu``; ``require_gpu`` makes ``auto`` an error if the GPU is not used. If the memory does not
        suffice, it is tried again with less, unless ``fallback="error"``. :attr:`device_report` says what came of it.
        ``draft`` decodes speculatively: it is the name of a smaller model with the same vocabulary, an n-gram mode of
        llama-server's (``ngram-mod`` …), or ``auto``; :attr:`draft_report` says how much of it is accepted. A draft
        model is the first thing to go if memory is short, unless ``draft_keep`` is given. ``silent`` hides the line
        about the device and a download's progress; ``verbose`` logs llama-server's lines to the logger ``llcuda``.
        ``server_options`` are llama-server's own, with ``_`` for ``-``, and those of
        :meth:`llcuda.server.ServerManager.start_server`. Raises ModelError, BinaryError, ServerError, DeviceError, and
        UsageError for an option that llama-server does not know.
        """
        if self._attached:
            raise UsageError("this engine is attached to a server", hint="Load with an InferenceEngine() of its own.")
        check_fallback(fallback)
        require_whole_binaries()
        layers = settings.get_count("LLAMACPP_N_GPU_LAYERS") if gpu_layers is None else gpu_layers
        placement = choose_placement(device, require_gpu=require_gpu, gpu_layers=layers)
        server_options = check_split(placement, server_options)
        model = resolve_model(name, progress=not silent)
        chosen = _choose_draft(draft, model, options=server_options, silent=silent)
        drafting = chosen.list_options(gpu_layers=layers) if chosen else {}
        own = {"gpu_layers": layers, "ctx_size": ctx_size, "n_parallel": n_parallel}
        options = {**own, **complete_options(model, server_options), **drafting}
        if self.model is not None:
            self._server.check_options(**options)  # before what works is unloaded
        check_numbers(options)
        options["verbose"] = settings.is_set("LLAMACPP_VERBOSE") if verbose is None else verbose
        held_gpu = self.device_report is not None and self.device_report.device == "cuda"
        self.unload_model()
        if held_gpu:
            settle(placement)
        load = Load(model, placement, options, fallback, draft=chosen, keep_draft=draft_keep)
        self.device_report = report = start(self._server, load)
        self.draft_report = _report_draft(chosen, report) if chosen else None
        if device == "auto" and report.device == "cpu":
            from logging import INFO, WARNING, getLogger  # noqa: PLC0415 - kept out of the import

            sentences = " ".join(filter(None, (report.reason, report.remedy)))
            getLogger("llcuda").log(INFO if silent else WARNING, sentences)
        # It asks once: a server of our own that refuses has ended, and says why in its log.
        self._client = InferenceClient(url=self._server.url, api_key=self._server.api_key, max_retries=0)
        self.model, self.can_chat = model, can_chat(model, options)
        return model

    def unload_model(self) -> None:
        """Stop llama-server and free its memory; do nothing if no model is loaded."""
        self._drop_client()
        self._server.stop_server()

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
        if not self._attached:
            self._client = self.model = self.device_report = self.draft_report = None

    def infer(self, prompt: str, **options: Unpack[InferOptions]) -> InferResult:
        """Answer one prompt; :meth:`llcuda.InferenceClient.infer` names the options and the errors."""
        with self._measured() as client:
            result = client.infer(prompt, **self._with_template(options))
        self._record(result)
        return result

    def infer_stream(self, prompt: str, **options: Unpack[InferOptions]) -> TextStream:
        """Answer one prompt piece by piece; closing the stream early stops the answer."""
        with self._measured() as client:
            options = self._with_template(options)
            return self._watched(client.infer_stream(prompt, on_result=self._record, **options))

    def batch_infer(self, prompts: Sequence[str], **options: Any) -> list[InferResult]:
        """Answer many prompts, as many at once as there are slots, and return the answers in the prompts' order."""
        with self._measured() as client:
            results = client.batch_infer(prompts, **self._with_template(options))
        for result in results:
            self._record(result)
        return results

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]) -> InferResult:
        """Answer a conversation; :meth:`llcuda.InferenceClient.chat` names the options and the errors."""
        self.require_template()
        with self._measured() as client:
            result = client.chat(messages, **options)
        self._record(result)
        return result

    def stream_chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]) -> TextStream:
        """Answer a conversation piece by piece; closing the stream early stops the answer."""
        self.require_template()
        with self._measured() as client:
            return self._watched(client.stream_chat(messages, on_result=self._record, **options))

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return one vector for each text; the model must be loaded with ``embeddings=True``."""
        with self._measured() as client:
            return client.embed(texts)

    @property
    def client(self) -> InferenceClient:
        """The client of the server, for everything that the engine has no method for.

        Raises UsageError if no model is loaded.
        """
        if self._client is None:
            raise UsageError("no model is loaded", hint='Call engine.load_model("demo") first.')
        return self._client

    @property
    def url(self) -> str:
        """The server's address without a path, for any OpenAI client: add ``/v1``."""
        return self.client.url

    @property
    def api_key(self) -> str | None:
        """The key that the server asks for."""
        return self.client.api_key

    @property
    def is_loaded(self) -> bool:
        """Whether a model is there to answer."""
        return self._client is not None and self.check_server()

    @property
    def is_loading(self) -> bool:
        """Whether a model is on its way into memory, after its download."""
        return self._server.state == "starting"

    def __repr__(self) -> str:
        """Return which model runs, where, and at which address."""
        if self._client is None:
            return "<InferenceEngine: no model is loaded>"
        if self.model is None or self.device_report is None:
            return f"<InferenceEngine: attached to {self._client.url}>"
        return f"<InferenceEngine: {self.model.name} on {self.device_report.device} at {self._client.url}>"

    def check_server(self) -> bool:
        """Return whether the server answers its health check."""
        return self._client is not None and self._client.is_healthy()

    def get_metrics(self) -> dict[str, Any]:
        """Return counts, tokens, latencies and rates of the requests since the start or the last reset."""
        return self._metrics.snapshot()

    def reset_metrics(self) -> None:
        """Forget what was measured."""
        self._metrics.reset()

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server that this engine started; in a forked process, leave it alone."""
        self._drop_client()
        self._server.__exit__(kind, error, traceback)

    def _with_template(self, options: Any) -> Any:
        # A model without a chat template is a plain text completer: a made-up template would only confuse it.
        return options if self.can_chat or "raw" in options else {**options, "raw": True}

    def require_template(self) -> None:
        """Raise UsageError if the model that is loaded has no chat template."""
        if not self.can_chat and self.model is not None:
            raise UsageError(
                f"{self.model.name} has no chat template: it continues texts and answers nobody",
                hint='Take a model whose name ends in -it or -Instruct, use infer, or give chat_template="chatml".',
            )

    @contextmanager
    def _measured(self) -> Iterator[InferenceClient]:
        try:
            yield self.client
        except LlcudaError as error:
            self._explain(error)
            raise

    def _record(self, result: InferResult) -> None:
        self._metrics.record(result)
        with self._lock:
            if self.draft_report is not None:
                self.draft_report = self.draft_report.add(result)

    def _explain(self, error: LlcudaError) -> None:
        """Count a failed request, and raise why the server died if that broke the connection."""
        self._metrics.record_failure()
        if isinstance(error, ConnectionFailedError) and not self._attached:
            self._server.raise_if_exited(timeout=_DEATH_TIMEOUT)

    def _watched(self, stream: TextStream) -> TextStream:
        stream.on_failure = self._explain
        return stream


def quick_infer(prompt: str, *, model: str = "demo", **options: Any) -> str:
    """Load the model, answer one prompt, unload the model, and return the text."""
    with InferenceEngine() as engine:
        engine.load_model(model)
        return engine.infer(prompt, **options).text


def _choose_draft(
    asked: str | PathLike[str] | None, model: ModelFile, *, options: Mapping[str, Any], silent: bool
) -> Draft | None:
    if asked is None:
        return None
    if options.get("embeddings"):
        raise UsageError("embeddings=True generates no text that could be drafted", hint="Leave out draft.")
    return choose_draft(asked, model, spec_type=options.get("spec_type"), progress=not silent)


def _report_draft(draft: Draft, report: DeviceReport) -> DraftReport:
    is_on = WITHOUT_DRAFT not in report.steps
    name = draft.model.name if draft.model else None
    return DraftReport(draft.asked, draft.spec_type if is_on else "none", name, is_on=is_on)
