"""A gateway over three hosts: one fails, one is cut off, one is slow, and nobody loses an answer."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, ModelConfig, RemoteConfig
from llcuda.gateway.gateway import Gateway
from tests.hosts import three_hosts
from tests.processes import PATIENCE, wait_until

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-of-the-hosts"
ANSWER = "2 + 2 = 4."
CLIENTS, ANSWERS = 4, 25
FIELDS: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tc") is None, reason="only root, with iproute2, can make hosts"
)


class Load:
    """Clients that ask again and again: most for whole answers, two for streams."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self.answers: list[str] = []
        self.ends: list[str] = []
        self._is_over = threading.Event()
        self._asking = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        self._streaming = [threading.Thread(target=self._stream) for _ in range(2)]
        for thread in (*self._asking, *self._streaming):
            thread.start()

    def _ask(self) -> None:
        for _ in range(ANSWERS):
            answer = httpx.post(self._url, json=FIELDS, timeout=PATIENCE, trust_env=False)
            text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.text
            self.answers.append(text)

    def _stream(self) -> None:
        while not self._is_over.is_set():
            with httpx.stream(
                "POST", self._url, json={**FIELDS, "stream": True}, timeout=PATIENCE, trust_env=False
            ) as answer:
                data = answer.read().decode()
            is_whole = answer.status_code == 200 and data.endswith("data: [DONE]\n\n")
            self.ends.append("whole" if is_whole else "error" if '"worker_failed"' in data else data)

    def wait(self) -> None:
        for thread in self._asking:
            thread.join()
        self._is_over.set()
        for thread in self._streaming:
            thread.join()


def test_hosts_that_fail_are_cut_off_or_slow_cost_no_whole_answer_and_no_end_of_a_stream(tmp_path: Path) -> None:
    with three_hosts(tmp_path) as (failing, cut, slow):
        for host in (failing, cut, slow):
            host.serve(KEY)
        remotes = tuple(RemoteConfig(host.url, key=KEY) for host in (failing, cut, slow))
        model = ModelConfig("demo", "demo", workers=0, remotes=remotes)
        with Gateway(GatewayConfig(models=(model,), port=0)) as gateway:

            def states() -> list[str]:
                status = httpx.get(f"{gateway.url}/api/status", trust_env=False).json()
                return [worker["state"] for worker in status["models"][0]["workers"]]

            assert states() == ["ready"] * 3
            slow.slow_down()
            load = Load(gateway.url)
            wait_until(lambda: len(load.answers) > CLIENTS * ANSWERS // 4)
            failing.fail()
            wait_until(lambda: len(load.answers) > CLIENTS * ANSWERS // 2)
            cut.cut_off()
            load.wait()
            assert load.answers == [ANSWER] * CLIENTS * ANSWERS
            assert set(load.ends) <= {"whole", "error"}
            assert load.ends.count("error") <= 4, "each of the two hosts had at most the two streams"
            wait_until(lambda: states()[:2] == ["waiting", "waiting"])
            cut.join_again()
            failing.serve(KEY)
            wait_until(lambda: states() == ["ready"] * 3)
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=FIELDS, timeout=PATIENCE, trust_env=False)
            assert answer.json()["choices"][0]["message"]["content"] == ANSWER
