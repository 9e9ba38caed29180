"""Server-sent events out of pieces of any size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.errors import ResponseError
from llcuda.transport.events import MAX_EVENT_BYTES, EventDecoder


def decode_line_by_line(text: str) -> list[bytes]:
    """The algorithm of the HTML standard, written down as it stands there."""
    events: list[bytes] = []
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        name, _, value = line.partition(":")
        if not line:
            if lines:
                events.append("\n".join(lines).encode())
            lines = []
        elif name == "data":
            lines.append(value.removeprefix(" "))
    return events


LINES = st.sampled_from(
    [
        "data: {}",
        "data:x",
        "data: a: b",
        "data",
        "data:  two",
        "event: e",
        ": ping",
        ":",
        "id: 1",
        "",
        "nonsense",
        "data: é🎈",
    ]
)


@given(
    st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20),
    st.lists(st.integers(0, 400), max_size=9),
)
def test_events_are_those_of_the_standard_however_the_stream_is_cut(
    lines: list[tuple[str, str]], cuts: list[int]
) -> None:
    # The end makes sure that no CR is left that could be half of a line's end.
    text = "".join(line + end for line, end in lines) + "data: end\n\n"
    data = text.encode()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    decoder = EventDecoder()
    events = [event for a, b in itertools.pairwise(places) for event in decoder.feed(data[a:b])]
    assert events == decode_line_by_line(text)


def test_an_event_is_there_as_soon_as_its_empty_line_is() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: one\n") == []
    assert decoder.feed(b"\ndata: two") == [b"one"]
    assert decoder.feed(b"\n\n") == [b"two"]


def test_a_character_that_two_pieces_share_comes_out_whole() -> None:
    decoder = EventDecoder()
    data = "data: 🎈\n\n".encode()
    assert [decoder.feed(data[index : index + 1]) for index in range(len(data))][-1] == ["🎈".encode()]


def test_pings_and_names_are_no_events() -> None:
    assert EventDecoder().feed(b":\n\n: ping\n\nevent: x\nid: 3\n\nretry: 5\n\n") == []


def test_an_event_without_an_end_is_refused_instead_of_filling_the_memory() -> None:
    decoder = EventDecoder()
    decoder.feed(b"x" * (MAX_EVENT_BYTES - 1))
    with pytest.raises(ResponseError, match="more than"):
        decoder.feed(b"xx")
