"""Addresses that are nearly right: answered, or told which one is meant."""

from __future__ import annotations

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.http.routes import ROUTES, find_route, resolve_path


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ("/v1/models", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/api/tags", "/api/tags"),
        ("/v1//api/chat/", "/api/chat"),
        ("/v1/completion", "/completion"),
        ("/v1/v1/infill/", "/infill"),
        ("/v1/completions", "/v1/completions"),
        ("/v1", "/v1"),
        ("//v1/v1/v1//chat//completions/", "/v1/chat/completions"),
        ("/v1/models/", "/v1/models"),
        ("/health/", "/health"),
        ("//", "/"),
        ("/v1/v1/models/demo", "/v1/models/demo"),
        ("/v1/models/org/name:Q4", "/v1/models/org/name:Q4"),
        ("/chat", "/chat"),
        ("/chat/", "/chat/"),
        ("/chat/props", "/props"),
        ("/chat/_app/x.js", "/chat/_app/x.js"),
        ("//nothing/", "//nothing/"),
    ],
)
def test_an_address_that_is_nearly_right_is_answered(asked: str, answers: str) -> None:
    assert resolve_path(asked) == answers


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES} - {"/"}))
def test_a_slash_at_the_end_changes_nothing_but_of_the_chat_page(path: str) -> None:
    assert resolve_path(f"{path}/") == (path if path != "/chat" else "/chat/")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/chat/completions/chat/completions", "; use /chat/completions"),
        ("/openai/v1/models", "; use /v1/models"),
        ("/nothing", ""),
    ],
)
def test_an_unknown_address_says_which_may_be_meant(path: str, hint: str) -> None:
    with pytest.raises(RefusedError) as caught:
        find_route("POST", path)
    assert caught.value.status == 404
    assert caught.value.message == f"there is no {path}{hint}"


def test_what_takes_get_takes_head() -> None:
    assert find_route("HEAD", "/health") is find_route("GET", "/health")
    with pytest.raises(RefusedError) as caught:
        find_route("POST", "/health")
    assert caught.value.headers["Allow"] == "GET, HEAD"
