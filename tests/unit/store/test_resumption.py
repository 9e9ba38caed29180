"""What an answer means for a half-downloaded file: decided without a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.store.resumption import Action, DownloadProgress, ServerAnswer, decide, request_headers

FRESH = DownloadProgress()
HALF = DownloadProgress(50, 100, '"tag"')


def answer(status: int, **headers: str) -> ServerAnswer:
    return ServerAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()})


def partial(content_range: str, **headers: str) -> ServerAnswer:
    return answer(206, content_range=content_range, **headers)


class TestRequest:
    def test_a_fresh_download_asks_for_all_of_it_unencoded(self) -> None:
        assert request_headers(FRESH) == {"Accept-Encoding": "identity"}

    def test_a_half_file_asks_for_the_rest_of_the_same_file(self) -> None:
        headers = request_headers(HALF)
        assert (headers["Range"], headers["If-Range"]) == ("bytes=50-", '"tag"')

    def test_without_a_validator_all_of_it_is_asked_for(self) -> None:
        assert "Range" not in request_headers(DownloadProgress(50, 100))


class TestAnswer:
    def test_a_strong_tag_comes_before_the_date(self) -> None:
        assert answer(200, etag='"a"', last_modified="Mon").validator == '"a"'

    def test_a_weak_tag_proves_nothing(self) -> None:
        assert answer(200, etag='W/"a"', last_modified="Mon").validator == "Mon"
        assert answer(200, etag='W/"a"').validator is None

    @pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "1 2"])
    def test_a_length_that_is_no_number_is_none(self, text: str) -> None:
        assert answer(200, content_length=text).length is None


class TestDecision:
    def test_all_of_it_starts_anew(self) -> None:
        step = decide(answer(200, content_length="70", etag='"new"'), HALF)
        assert (step.action, step.progress) == (Action.RESTART, DownloadProgress(0, 70, '"new"'))

    @pytest.mark.parametrize(
        "given", [partial("bytes 50-99/100"), partial("bytes 50-99/100", etag='"tag"'), partial("bytes 50-99/*")]
    )
    def test_the_rest_is_appended(self, given: ServerAnswer) -> None:
        step = decide(given, HALF)
        assert (step.action, step.progress) == (Action.APPEND, HALF)

    def test_a_total_that_was_not_known_is_learned(self) -> None:
        assert decide(partial("bytes 50-99/100"), DownloadProgress(50, None, '"tag"')).progress.total == 100

    @pytest.mark.parametrize(
        "given",
        [
            partial("bytes 49-99/100"), partial("bytes 0-99/100"), partial("bytes 50-119/120"), partial(""),
            partial("bytes */100"), partial("items 50-99/100"), partial("bytes 50-99/100", etag='"other"'), answer(206),
            answer(416),
        ],
    )  # fmt: skip
    def test_what_may_not_be_the_rest_is_asked_for_again(self, given: ServerAnswer) -> None:
        step = decide(given, HALF)
        assert (step.action, step.progress) == (Action.AGAIN, FRESH)

    def test_a_part_that_was_not_asked_for_is_not_taken(self) -> None:
        assert decide(partial("bytes 0-9/100"), FRESH).action is Action.AGAIN

    def test_nothing_left_to_send_means_done(self) -> None:
        assert decide(answer(416), DownloadProgress(100, 100, '"tag"')).action is Action.DONE

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_a_passing_error_is_tried_again(self, status: int) -> None:
        step = decide(answer(status), HALF)
        assert (step.action, step.progress, step.reason) == (Action.RETRY, HALF, f"HTTP {status}")

    @pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404, 410, 501])
    def test_a_lasting_error_fails(self, status: int) -> None:
        assert decide(answer(status), HALF).action is Action.FAIL

    def test_a_range_refused_for_nothing_fails(self) -> None:
        assert decide(answer(416), FRESH).action is Action.FAIL

    @pytest.mark.parametrize("status", [200, 206])
    def test_an_encoded_answer_fails(self, status: int) -> None:
        assert (
            decide(answer(status, content_encoding="br", content_range="bytes 50-99/100"), HALF).action is Action.FAIL
        )

    @given(
        st.integers(100, 599),
        st.dictionaries(
            st.sampled_from(["etag", "content-range", "content-length", "last-modified"]), st.text(max_size=20)
        ),
        st.integers(0, 200),
    )
    def test_every_answer_is_decided_and_only_a_proven_rest_is_appended(
        self, status: int, headers: dict[str, str], received: int
    ) -> None:
        progress = DownloadProgress(received, 100, '"tag"')
        step = decide(ServerAnswer(status, headers), progress)
        assert step.action in Action
        if step.action is Action.APPEND:
            assert headers["content-range"].startswith(f"bytes {received}-")
