"""Put the chunks of completions together into the answer that llama-server gives when it does not stream.

One class for each API: ``add`` takes the JSON of an event and returns how many characters it kept, ``finished`` tells
whether the server has said that everything is there, ``build`` returns the answer.
"""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CompletionsAnswer", "NativeAnswer", "measure"]


def measure(entries: list[Any]) -> int:
    """Return about how many characters it takes to write some JSON."""
    return sum(len(str(entry)) for entry in entries)


class _Texts:
    """The texts, probabilities and last events of an answer's parts, by their indexes."""

    __slots__ = ("ends", "probabilities", "texts")

    def __init__(self) -> None:
        self.texts: dict[int, StringIO] = {}
        self.probabilities: dict[int, list[Any]] = {}
        self.ends: dict[int, dict[str, Any]] = {}

    def add(self, index: int, text: str, entries: Iterable[Any]) -> int:
        kept = self.texts.setdefault(index, StringIO()).write(text)
        entries = list(entries)
        if entries:
            self.probabilities.setdefault(index, []).extend(entries)
        return kept + measure(entries)

    def end(self, index: int, data: dict[str, Any]) -> int:
        self.ends[index] = data
        return measure([data])


class _Answer:
    """An answer of several texts."""

    __slots__ = ("_expected", "_parts")

    def __init__(self, expected: int) -> None:
        """Wait for so many texts."""
        self._expected = expected
        self._parts = _Texts()

    @property
    def finished(self) -> bool:
        """Tell whether every text has ended."""
        return len(self._parts.ends) >= self._expected


class CompletionsAnswer(_Answer):
    """The answer of ``/v1/completions``."""

    __slots__ = ()

    def add(self, data: dict[str, Any]) -> int:
        """Take a chunk, which has one choice."""
        choice = data["choices"][0]
        entries = (choice.get("logprobs") or {}).get("content") or ()
        kept = self._parts.add(choice["index"], choice["text"], entries)
        return kept if choice["finish_reason"] is None else kept + self._parts.end(choice["index"], data)

    def find_text(self, data: dict[str, Any]) -> tuple[str, StringIO] | None:
        """Return the text of a chunk that was added and where it is kept, None for one with anything else."""
        choice = data["choices"][0]
        if choice.get("logprobs") or choice["finish_reason"] is not None or not choice["text"]:
            return None
        return choice["text"], self._parts.texts[choice["index"]]

    def build(self) -> dict[str, Any]:
        """Return the answer; the counts are those of the first choice, as llama-server does it."""
        ends = sorted(self._parts.ends.items())
        return {**ends[0][1], "choices": [self._build_choice(index, end["choices"][0]) for index, end in ends]}

    def _build_choice(self, index: int, choice: dict[str, Any]) -> dict[str, Any]:
        entries = self._parts.probabilities.get(index)
        return {
            **choice,
            "text": self._parts.texts[index].getvalue(),
            "logprobs": {"content": entries} if entries else None,
        }


class NativeAnswer(_Answer):
    """The answer of ``/completion`` and ``/infill``: an object, or a list of them for several prompts or choices."""

    __slots__ = ()

    def add(self, data: dict[str, Any]) -> int:
        """Take an event; those about the progress of the prompt have no text."""
        index = data["index"]
        kept = self._parts.add(index, data["content"], data.get("completion_probabilities") or ())
        return kept + self._parts.end(index, data) if data["stop"] else kept

    def build(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the answer."""
        answers = [self._build_one(index, end) for index, end in sorted(self._parts.ends.items())]
        return answers[0] if len(answers) == 1 else answers

    def _build_one(self, index: int, end: dict[str, Any]) -> dict[str, Any]:
        answer = {**end, "content": self._parts.texts[index].getvalue()}
        if "generation_settings" in answer:
            answer["generation_settings"] = {**answer["generation_settings"], "stream": False}
        if index in self._parts.probabilities:
            answer["completion_probabilities"] = self._parts.probabilities[index]
        return answer
