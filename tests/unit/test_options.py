"""The options of a request."""

from __future__ import annotations

import math
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.errors import UsageError
from llcuda.options import OPTIONS, SamplingOptions, check_options, suggest_names


def test_every_option_is_checked_as_what_it_is_typed() -> None:
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    for name, hint in get_type_hints(SamplingOptions).items():
        kind = OPTIONS[name].kind
        assert kind not in kinds or hint == kinds[kind] | None


def test_options_become_fields_of_the_request() -> None:
    options = {"max_tokens": 50, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 0, "stop_sequences": ["\n"]}
    fields = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 0, "stop": ["\n"]}
    assert check_options(options, chat=True) == {"max_tokens": 50, **fields}
    assert check_options(options, chat=False) == {"n_predict": 50, **fields}


def test_options_that_are_none_are_left_to_the_server() -> None:
    assert check_options(dict.fromkeys(OPTIONS), chat=True) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_token", "max_tokens"),
        ("temprature", "temperature"),
        ("stop", "stop_sequences"),
        ("n_predict", "max_tokens"),
        ("repetition_penalty", "repeat_penalty"),
        ("dry", "dry_multiplier"),
        ("response_format", "schema"),
    ],
)
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        check_options({name: 1}, chat=True)
    assert meant in caught.value.hint


def test_an_option_like_no_other_is_refused_with_all_of_them() -> None:
    with pytest.raises(UsageError) as caught:
        check_options({"xyzzy": 1}, chat=True)
    assert all(name in caught.value.hint for name in OPTIONS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -2),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", []),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("top_k", -2),
        ("seed", 2**32),
        ("repeat_penalty", 0),
        ("presence_penalty", 2.1),
        ("dry_base", 0.5),
        ("mirostat", 3),
        ("cache_prompt", 1),
        ("grammar", 1),
        ("stop_sequences", [1]),
        ("stop_sequences", [""]),
        ("stop_sequences", 5),
        ("samplers", {"top_k": 1}),
        ("lora", [0, 1]),
        ("lora", {"a": 1}),
        ("lora", {0: None}),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        check_options({name: value}, chat=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("temperature", 0),
        ("top_p", 1),
        ("seed", -1),
        ("seed", 2**32 - 1),
        ("id_slot", -1),
        ("logit_bias", [["Hello", False]]),
        ("logit_bias", {"15043": 1.0}),
        ("chat_template_kwargs", {"enable_thinking": False}),
    ],
)
def test_values_at_the_ends_of_their_ranges_are_accepted(name: str, value: object) -> None:
    assert list(check_options({name: value}, chat=True).values()) == [value]


def test_a_single_stop_sequence_need_not_be_a_list() -> None:
    assert check_options({"stop_sequences": "END"}, chat=True) == {"stop": ["END"]}


def test_adapters_become_what_the_server_takes() -> None:
    assert check_options({"lora": {0: 0.5, 2: 1}}, chat=True) == {
        "lora": [{"id": 0, "scale": 0.5}, {"id": 2, "scale": 1}]
    }


def test_numbers_of_other_libraries_become_plain_ones() -> None:
    fields = check_options({"max_tokens": np.int64(5), "temperature": np.float32(0.5)}, chat=True)
    assert [type(value) for value in fields.values()] == [int, float]


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.chat_only])
def test_an_option_of_the_chat_template_is_refused_without_one(name: str) -> None:
    value = 1 if OPTIONS[name].kind == "int" else "x"
    assert name in check_options({name: value}, chat=True)
    with pytest.raises(UsageError, match="chat"):
        check_options({name: value}, chat=False)


@given(st.sampled_from(sorted(OPTIONS)), st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_any_value_is_accepted_or_refused_with_a_typed_error(name: str, value: object) -> None:
    try:
        fields = check_options({name: value}, chat=True)
    except UsageError:
        return
    assert len(fields) == (value is not None)


def test_near_names_are_the_nearest_first_and_at_most_three() -> None:
    assert suggest_names("top_q", ["top_k", "top_p", "top_n", "top_m", "bottom"])[0] in {
        "top_k",
        "top_p",
        "top_n",
        "top_m",
    }
    assert len(suggest_names("top_q", ["top_k", "top_p", "top_n", "top_m"])) == 3
    assert suggest_names("zzz", ["top_k"]) == ()
