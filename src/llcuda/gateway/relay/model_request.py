"""One request to a model: its body, what each worker that is asked makes of it, and the answer's end."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llcuda.fleet.dispatch.balance import Prompt, read_prompt
from llcuda.fleet.dispatch.suspects import refuse
from llcuda.fleet.dispatch.upstream import PlainAnswer, UpstreamFailedError
from llcuda.fleet.dispatch.worker import Job
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.answer_schema import check_answer, check_stream, is_checked
from llcuda.gateway.api.field_changes import to_understood
from llcuda.gateway.api.field_media import count_texts
from llcuda.gateway.api.field_ollama import OLLAMA_FIELDS
from llcuda.gateway.api.fields import MAX_QUICK_BYTES, check_fields, is_quick_to_read, leave_out_unknown, parse_body
from llcuda.gateway.dialects.agent_turns import change_turns, join_turns
from llcuda.gateway.dialects.event_writer import NOT_UNDERSTOOD, EventWriter
from llcuda.gateway.dialects.ollama_answers import OllamaAnswer, OllamaStream
from llcuda.gateway.dialects.ollama_requests import translate
from llcuda.gateway.dialects.openai_answers import ProbabilityEvents, find_writer, has_probabilities
from llcuda.gateway.dialects.openai_forms import to_known_forms
from llcuda.gateway.http.error_envelopes import read_refusal
from llcuda.gateway.http.routes import Kind
from llcuda.gateway.relay.streamed_answer import StreamedAnswer, find_figures, read_prompt_seconds, read_usage

if TYPE_CHECKING:
    from llcuda.fleet.dispatch.worker import Slot, Worker
    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.http.routes import Route
    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

__all__ = ["ModelRequest", "write_error_event"]

_OK, _SERVER_ERROR = 200, 500
_WORKERS_ASKED = 2
_MAX_NAME = 64
_CHARACTERS_PER_TOKEN = 4  # of English text, by OpenAI's rule of thumb; only the queue's bound depends on it
_USUAL_ANSWER = 256
_CHATS = frozenset({"apply_template", "chat", "messages", "responses"})
_NO_TEMPLATE = (
    "{} has no chat template: it continues texts and answers nobody. Send a text to /v1/completions, take a model "
    "whose name ends in -it or -Instruct, or serve it with --chat-template chatml."
)
# What chat templates, and llama-server itself, say of turns of one role that follow each other, and of a late system's.
_WANTS_TURNS = re.compile(rb"(?i)must alternate|2 or more assistant messages at the end|system message must be").search
_ANSWER_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of asking one worker."""

    worker: Worker
    reception: PlainAnswer
    problem: str | None
    """What went wrong with the worker; None if it answered, be it with an error."""
    is_suspect: bool
    """Whether the request may be what ended the worker."""
    is_failure: bool
    """Whether another worker should be asked."""


class ModelRequest:
    """A request that a model answers, from its body to the last byte of the answer."""

    def __init__(self, exchange: Exchange, route: Route, metrics: GatewayMetrics, *, is_strict: bool = False) -> None:
        """Read and check the body, ``is_strict`` about fields that are not known. Raises RefusedError."""
        self._exchange = exchange
        self._route = route
        self._metrics = metrics
        self._body = exchange.body
        self._endpoint, self._path = route.endpoint, exchange.path
        self._ollama: OllamaAnswer | None = None
        given = parse_body(self._body)
        self.fields, ignored = leave_out_unknown(route.endpoint, given, is_strict=is_strict)
        if ignored:
            exchange.ignored_fields = len(ignored)
            shown = ", ".join(quote(name[:_MAX_NAME], safe="") for name in ignored)
            exchange.extra_headers += f"X-Llcuda-Ignored: {shown}\r\n"
        if route.endpoint in OLLAMA_FIELDS:
            check_fields(route.endpoint, self.fields)
            self._translate()
        self.fields = to_known_forms(self._endpoint, self.fields)
        check_fields(self._endpoint, self.fields)
        self._streams = route.kind is Kind.GENERATE and self.fields.get("stream") is True
        turns = change_turns(self._endpoint, self.fields)
        self._body = to_understood(self._body, self.fields, turns, is_changed=self.fields is not given)
        # What it is known by, within this process. Of 8 MB it takes 5 ms, and large bodies are read in a thread.
        self._identity = hash((self._path, self._body))
        self._is_checked = route.kind is Kind.GENERATE and is_checked(self._endpoint, self.fields)
        exchange.drop_body()
        self._model: ServedModel
        self._attempts: list[_Attempt] = []

    def _translate(self) -> None:
        """Ask llama-server for what a request of Ollama's API asks for. Raises RefusedError."""
        self._ollama = OllamaAnswer(self._endpoint, self.fields["model"])
        asked = translate(self._endpoint, self.fields)
        self._endpoint, self._path, self.fields = asked.endpoint, asked.path, asked.fields

    @classmethod
    async def read(
        cls, exchange: Exchange, route: Route, metrics: GatewayMetrics, *, is_strict: bool = False
    ) -> ModelRequest:
        """Return the request of an exchange, read in a thread if that may take long. Raises RefusedError."""
        if exchange.body_bytes <= MAX_QUICK_BYTES and is_quick_to_read(exchange.body):
            return cls(exchange, route, metrics, is_strict=is_strict)
        return await asyncio.to_thread(cls, exchange, route, metrics, is_strict=is_strict)

    def describe(self, model: ServedModel, *, deadline: float) -> Job | None:
        """Return what the model's queue needs to know of it; None if it takes no slot.

        What a worker may have died of always takes one, and has a worker to itself. Raises RefusedError if it has
        ended two workers.
        """
        self._model = model
        if self._route.endpoint in _CHATS and not model.fleet.can_chat:
            raise RefusedError(400, _NO_TEMPLATE.format(model.name), code="no_chat_template", param="messages")
        is_suspect = model.suspects.is_suspect(self._identity)
        if self._route.kind is Kind.ASK and not is_suspect:
            return None
        exchange = self._exchange
        prompt_tokens = (len(self._body) - len(self.fields.get("grammar") or "")) // _CHARACTERS_PER_TOKEN
        exchange.queued_at = monotonic()
        return Job(
            prompt=read_prompt(self.fields) if len(model.workers) > 1 else Prompt(),
            prompt_tokens=prompt_tokens,
            tokens=prompt_tokens + self._answer_tokens(),
            texts=count_texts(self.fields),
            priority=exchange.caller.priority if exchange.caller else 0,
            deadline=deadline,
            is_suspect=is_suspect,
        )

    async def send(self, slot: Slot) -> None:
        """Let the worker of a slot answer; a stream is passed on as it comes, anything else kept for :meth:`finish`."""
        exchange, worker = self._exchange, slot.worker
        exchange.turn_at = monotonic()
        exchange.worker = worker.server.name
        self._metrics.queue_seconds.observe(slot.job.queued - exchange.queue_seconds)
        exchange.queue_seconds = slot.job.queued
        stream = self._receive_stream() if self._streams else None
        reception = stream or PlainAnswer()
        reception.on_life = slot.note_life
        problem, was_sent = None, True
        try:
            await self._ask(worker, reception)
            if stream and stream.is_stream and not stream.is_complete:
                problem = "the worker ended the stream before its end"
        except UpstreamFailedError as error:
            problem, was_sent = str(error), error.was_sent
        except asyncio.CancelledError:
            worker.note_abandoned(self._identity)
            raise
        finally:
            exchange.first_at = 0.0
            if stream:
                exchange.follow(None)
                exchange.first_at = stream.first_at
        # Before the slot is free: it is not to be given to somebody else at a worker that has just failed.
        if problem is not None:
            worker.note_failure()
        else:
            self._model.admission.rate.record(monotonic() - exchange.turn_at)
        is_suspect = problem is not None and was_sent and not slot.was_cut_off
        is_failure = problem is not None or reception.status >= _SERVER_ERROR
        self._attempts.append(_Attempt(worker, reception, problem, is_suspect, is_failure))

    async def _ask(self, worker: Worker, reception: PlainAnswer) -> None:
        """Ask a worker, and again with turns that alternate if that is what it wants of them."""
        await worker.upstream.exchange("POST", self._path, reception, body=self._body)
        if reception.status != HTTPStatus.BAD_REQUEST or not _WANTS_TURNS(reception.body):
            return
        if await asyncio.to_thread(self._alternate):
            await worker.upstream.exchange("POST", self._path, reception, body=self._body)

    def _alternate(self) -> bool:
        """Join turns of a role that follow each other, and tell whether there were any."""
        turns = join_turns(self._endpoint, self.fields)
        self._body = to_understood(self._body, self.fields, turns) if turns else self._body
        return bool(turns)

    async def judge(self, slot: Slot) -> Job | None:
        """Note what came of the slot, and return the job for another worker; None if this was the last.

        Raises RefusedError if the request has ended two workers, and no stream has begun.
        """
        attempt, suspects = self._attempts[-1], self._model.suspects
        if not attempt.is_failure:
            attempt.worker.note_answer()
        if attempt.is_suspect and slot.job.is_suspect and await slot.has_died():
            if suspects.prove(self._identity, was_killed=slot.was_killed) and not self._exchange.started:
                raise refuse()
        elif attempt.is_suspect:
            suspects.suspect(self._identity)
        elif slot.job.is_suspect and attempt.problem is None:
            suspects.clear(self._identity)
        return self._repeat(slot.job, attempt) if attempt.is_failure and not self._exchange.started else None

    def _repeat(self, job: Job, failed: _Attempt) -> Job | None:
        """Return the job for another worker after a failure; None if there is no other, or it was asked already."""
        if len(self._attempts) == 1:
            if failed.problem is None:
                if len(self._model.workers) == 1:
                    return None
                # What comes meanwhile goes elsewhere: the second answer, which shows whose fault it was, may take long.
                failed.worker.note_failure()
            job.excluded = failed.worker
            job.is_suspect = job.is_suspect or failed.is_suspect
            self._metrics.retries.add()
        elif len(self._attempts) > _WORKERS_ASKED or failed.problem is None or failed.is_suspect:
            return None  # else it went to a worker that had just died, and that did not read it
        self._exchange.queued_at = monotonic()
        return job

    def _make_events(self) -> EventWriter | None:
        if self._ollama is not None:
            return OllamaStream(self._ollama)
        if has_probabilities(self._endpoint, self.fields):
            return ProbabilityEvents()
        # The last event of a stream that is checked may not have begun when it is known what is wrong with it.
        return EventWriter() if self._is_checked else None

    def _receive_stream(self) -> StreamedAnswer:
        return StreamedAnswer(
            self._exchange, self._endpoint, self._metrics.intervals,
            texts=count_texts(self.fields), is_checked=self._is_checked, events=self._make_events(),
        )  # fmt: skip

    async def finish(self) -> None:
        """Write what is left of the answer. Raises RefusedError."""
        exchange, first, attempt = self._exchange, self._attempts[0], self._attempts[-1]
        reception = attempt.reception
        if attempt is not first and first.problem is None and attempt.problem is None and attempt.is_failure:
            first.worker.forgive()
        if attempt.problem is not None:
            if not exchange.started:
                raise RefusedError(502, "the worker broke off, and so did a second one", code="worker_failed")
            write_error_event(exchange, f"the answer broke off: {attempt.problem}")
        elif isinstance(reception, StreamedAnswer) and (exchange.started or reception.is_held):
            exchange.usage = reception.usage
            self._note_first()
            if reception.is_held:
                await self._end_stream(reception)
        else:
            if self._is_checked and reception.status == _OK:
                # A large answer takes up to a second to be held against its schema.
                await asyncio.to_thread(check_answer, self._endpoint, self.fields, reception.body)
            figures = find_figures(reception.body)
            exchange.usage, seconds = read_usage(figures), read_prompt_seconds(figures)
            if seconds is not None:
                exchange.first_at = min(exchange.turn_at + seconds, monotonic())
                self._note_first()
            await self._pass_on(reception)

    async def ask(self, model: ServedModel) -> None:
        """Pass it to a worker without taking a slot, and the answer back. Raises RefusedError."""
        worker, reception = model.choose_any(), PlainAnswer()
        if worker is None:
            raise RefusedError(503, "no worker can answer now", code="unavailable", headers={"Retry-After": "5"})
        self._exchange.worker = worker.server.name
        try:
            await self._ask(worker, reception)
        except UpstreamFailedError as error:
            worker.note_failure()
            if error.was_sent:
                model.suspects.suspect(self._identity)
            raise RefusedError(502, "the worker broke off", code="worker_failed") from error
        except asyncio.CancelledError:
            worker.note_abandoned(self._identity)
            raise
        await self._pass_on(reception)

    async def _end_stream(self, stream: StreamedAnswer) -> None:
        """Pass on the end of a stream whose text holds to the schema that was asked for, an error for any other."""
        try:
            await asyncio.to_thread(check_stream, self._endpoint, self.fields, b"".join(stream.kept))
        except RefusedError as error:
            if not self._exchange.started:
                raise
            write_error_event(self._exchange, error.message, code=error.code or "", end=stream.end)
        else:
            self._exchange.write(stream.end, is_last=True)

    def _note_first(self) -> None:
        exchange = self._exchange
        if exchange.first_at:
            self._metrics.first_token_seconds.observe(exchange.first_at - exchange.arrived)

    async def _pass_on(self, reception: PlainAnswer) -> None:
        body = reception.body
        write = self._ollama.write if self._ollama else find_writer(self._endpoint, self.fields)
        if reception.status != _OK:
            raise read_refusal(reception.status, body)
        if write is not None:
            try:
                # Vectors, and the probabilities of a long answer, are megabytes.
                body = await asyncio.to_thread(write, body)
            except NOT_UNDERSTOOD as error:
                reason = f"the worker's answer is not understood ({type(error).__name__})"
                raise RefusedError(502, reason, code="bad_answer") from None
        self._exchange.respond(reception.status, body, content_type=reception.content_type)

    def _answer_tokens(self) -> int:
        for name in _ANSWER_LIMITS:
            value = self.fields.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return _USUAL_ANSWER if self._route.kind is Kind.GENERATE else 0


def write_error_event(exchange: Exchange, message: str, *, code: str = "worker_failed", end: bytes = b"") -> None:
    """End a stream that has begun with an error, in the words of its API, in place of the ``end`` that it had."""
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    endpoint = exchange.route.endpoint if exchange.route else ""
    if endpoint in OLLAMA_FIELDS:
        event = json.dumps({"error": message}) + "\n"
    elif endpoint == "messages":
        event = _named_event({"type": "error", "error": {"type": "api_error", "message": message}})
    elif endpoint == "responses":
        event = _named_event(_fail(end, message) if end else {**error, "type": "error"})
    else:
        event = f"data: {json.dumps({'error': error})}\n\n"
    if exchange.refusal is None:
        exchange.refusal = RefusedError(502, message, code=code)
    exchange.write(event.encode(), is_last=True)


def _fail(end: bytes, message: str) -> dict[str, Any]:
    """Return the last event of a response, as that of one that failed."""
    event: dict[str, Any] = json.loads(end.rpartition(b"\ndata: ")[2])
    failed = {"status": "failed", "error": {"code": "server_error", "message": message}}
    return {**event, "type": "response.failed", "response": {**event["response"], **failed}}


def _named_event(data: dict[str, Any]) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"
