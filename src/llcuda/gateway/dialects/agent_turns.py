"""Turns of programs that write code, such as Claude Code and Codex, in a form that every chat template takes.

Templates of many models raise for a system message that is not the first, and llama-server for a turn of reasoning
that is encrypted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["change_turns", "join_turns"]

_RULES = ("system", "developer")


def change_turns(endpoint: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are to be set for the turns of a request to be understood, none if all are."""
    if endpoint.startswith("messages"):
        return _change_messages(fields)
    return _change_input(fields) if endpoint.startswith("responses") else {}


def _change_messages(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Let what the system says in a conversation of Anthropic's be said by the user, at the same place."""
    turns = fields["messages"]
    if all(turn.get("role") != "system" for turn in turns):
        return {}
    users = [{**turn, "role": "user"} if turn.get("role") == "system" else turn for turn in turns]
    return {"messages": _join(users, {})}


def join_turns(endpoint: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed fields in which the turns of user and model alternate, none if they do already.

    Not every template, nor llama-server at the end of a conversation, takes two of one role, as OpenAI's API does.
    What the system says after the beginning is said by the user.
    """
    changes = change_turns(endpoint, fields)
    name = "input" if endpoint.startswith("responses") else "messages"
    turns = {**fields, **changes}.get(name)
    if type(turns) is not list:
        return {}
    users = [{**turn, "role": "user"} if at and turn.get("role") in _RULES else turn for at, turn in enumerate(turns)]
    joined = _join(users, {"user": "input_text", "assistant": "output_text"} if name == "input" else {})
    return {**changes, name: joined} if joined != turns else {}


def _join(turns: list[dict[str, Any]], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Make one turn of those of a role that follow each other; ``kinds`` are the types of a text, if not ``text``."""
    joined: list[dict[str, Any]] = []
    for turn in turns:
        last, role = joined[-1] if joined else {}, turn.get("role")
        is_same = role in {"user", "assistant"} and role == last.get("role")
        if is_same and not ("tool_calls" in last and "tool_calls" in turn):
            kind = kinds.get(str(role), "text")
            joined[-1] = {**last, **turn, "content": [*_parts(last, kind), *_parts(turn, kind)] or ""}
        else:
            joined.append(turn)
    return joined


def _parts(turn: Mapping[str, Any], kind: str = "text") -> list[Any]:
    content = turn.get("content")
    return [{"type": kind, "text": content}] if type(content) is str and content else content or []


def _change_input(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Put the developer's first words into the instructions, and leave out reasoning that only OpenAI could read."""
    turns = fields["input"]
    if type(turns) is not list:
        return {}
    kept = [_complete(turn) for turn in turns if turn.get("type") != "reasoning" or turn.get("content")]
    first = next((at for at, turn in enumerate(kept) if not _is_rule(turn)), 0)
    texts = [part["text"] for turn in kept[:first] for part in _parts(turn)]
    if first + (fields.get("instructions") is not None) > 1:
        said = "\n\n".join(filter(None, [fields.get("instructions"), *texts]))
        return {"instructions": said, "input": kept[first:]}
    return {"input": kept} if kept != turns else {}


def _is_rule(turn: Mapping[str, Any]) -> bool:
    """Tell whether the developer says a text, which can stand elsewhere."""
    is_text = type(turn.get("content")) in {str, list} and all(type(one.get("text")) is str for one in _parts(turn))
    return turn.get("role") in _RULES and is_text


def _complete(turn: dict[str, Any]) -> dict[str, Any]:
    """Return the model's own turn, if it is in the short form that leaves out that it is a message, in the long one."""
    return {**turn, "type": "message"} if turn.get("role") == "assistant" and "type" not in turn else turn
