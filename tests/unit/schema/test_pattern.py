"""Regular expressions: what they match, how long that takes, and what llama-server is sent of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.errors import UsageError
from llcuda.schema.pattern import compile_pattern
from llcuda.schema.validate import find_mismatch

EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
DURATION = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
BASE64 = r"^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (r"^\d{4}$", ["1234"], ["123", "12345", "\u0661234", "1234\n"]),
        ("b", ["abc", "b"], ["a", ""]),
        ("^a|b$", ["ac", "cb"], ["ca", "bc"]),
        ("", ["", "a"], []),
        (EMAIL, ["a.b@x.org"], ["a..b@x.org", ".a@x.org", "a@x"]),
        (DURATION, ["P3D", "PT5M", "P1W"], ["P", "PT", "P1W2D"]),
        (DECIMAL, ["1.5", "-3"], ["-", ".", "1.2.3"]),
        (BASE64, ["", "YWI=", "YWJj"], ["YWI", "===="]),
        (r"\bfoo\b", ["a foo b", "foo"], ["food"]),
        (r"^a\Bb$", ["ab"], []),
        (r"^[[\]&&]+$", ["[&]"], ["a"]),
        (r"^(?<year>\d{2})$", ["99"], ["9"]),
        (r"^\s.\S$", ["\ufeffab"], ["\n\na", "abc"]),
        ("^é$", ["é"], ["e"]),
        (r"^[^\d\-]$", ["a"], ["1", "-"]),
    ],
)
def test_a_pattern_means_what_ecma_says(pattern: str, matching: list[str], others: list[str]) -> None:
    compiled = compile_pattern(pattern)
    assert [text for text in [*matching, *others] if compiled.matches(text)] == matching


PARTS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(?:ab|)", "^", "$", "(?=b)", "(?!a)", r"\b"])
PATTERNS = st.lists(st.tuples(PARTS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{0,2}"])), max_size=6).map(
    lambda pairs: "".join(part + ("" if part in {"^", "$", r"\b"} or "?" in part[:2] else sign) for part, sign in pairs)
)


@given(PATTERNS, st.text("ab c", max_size=6))
def test_what_python_matches_is_matched(pattern: str, text: str) -> None:
    assert compile_pattern(pattern).matches(text) == bool(re.search(pattern, text))


@pytest.mark.parametrize(
    ("pattern", "sent"),
    [
        ("^[a-z]{2,3}-[0-9]+$", r"^[a-z]{2,3}[\x2D][0-9]+$"),
        (r"^\d+$", "^[0-9]+$"),
        (r"^a\"\\\n$", r"^a([\x5C][\x22])([\x5C][\x5C])([\x5C][n])$"),
        ("^(?!x)a$", "^a$"),
        ("^a$|^b$", "^(a|b)$"),
        ("^", r"^([\x20-\x21\x23-\x5B\x5D-\uD7FF\uE000-\U0010FFFF]|[\x5C][\x22\x5Cbtnfr])*$"),
    ],
)
def test_it_is_sent_as_json_writes_what_it_matches(pattern: str, sent: str) -> None:
    assert compile_pattern(pattern).write() == sent


def test_a_repetition_of_one_character_is_held_to_lengths() -> None:
    assert compile_pattern("^[a-z]+$").write((0, 5)) == "^[a-z]{1,5}$"
    assert compile_pattern(r"^\w*$").write((3, None)) == "^[0-9A-Z_a-z]{3,}$"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"^(a)\1$", "a reference back"),
        ("(?<=a)b", "looking behind"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        (r"\p{L}", "cannot be read"),
        ("(", "cannot be read"),
        ("^a{0,4000000000}$", "cannot be read"),
        ("^(a{0,99}){99}$", "states"),
        ("(?=a{0,999})" * 3, "states"),
        ("(" * 70 + "a" + ")" * 70, "nested"),
        ("a" * 5000, "5000 characters"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(a?){50}a{50}$", "^a*a*a*a*b$", "^(?=(a+)+$)a*b$"])
def test_no_pattern_takes_more_steps_than_states_for_each_character(pattern: str) -> None:
    taken: list[int] = []
    assert not compile_pattern(pattern).matches("a" * 100 + "c", taken.append)
    assert sum(taken) < 100 * 100 * 10


def test_a_pattern_that_takes_too_long_for_a_text_is_a_mismatch() -> None:
    document = {"pattern": "^(?:a?){1000}$"}
    assert find_mismatch("a" * 3000, document) == "it is nested too deeply to be checked"
