"""A real Prometheus reads the gateway's page, and every panel of the dashboard finds its figures there."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.prometheus_server import DEPLOY, Prometheus, find_program, running_prometheus, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-of-prometheus"
CHAT = "/v1/chat/completions"
ANSWERED = 'llcuda_requests_total{endpoint="chat", model="demo", status="200"}'
WORKERS = ("demo/0", "demo/1")
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "llcuda.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]


@dataclass
class Asked:
    """What was asked of the gateway so far, and what its answers say that it took."""

    client: httpx.Client
    whole: int = 0
    streamed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def ask(self, text: str) -> None:
        """Ask for a whole answer and for two streams, and be refused once."""
        # So many tokens that they do not all come at once, on a busy machine either: there is a time between them.
        fields: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "temperature": 0}
        fields |= {"max_tokens": 200, "ignore_eos": True}
        usage = self.client.post(CHAT, json=fields).raise_for_status().json()["usage"]
        for more in ({}, {"stream_options": {"include_usage": True}}):
            answer = self.client.post(CHAT, json={**fields, "stream": True, **more}).raise_for_status()
            assert answer.text.endswith("data: [DONE]\n\n")
        assert self.client.post(CHAT, json={"messages": 1, "of_tomorrow": 1}).status_code == 400
        self.whole += 1
        self.streamed += 2
        self.refused += 1
        self.prompt_tokens += 3 * usage["prompt_tokens"]
        self.completion_tokens += 3 * usage["completion_tokens"]


@dataclass(frozen=True)
class Watched:
    """A gateway with two real workers that Prometheus has read several times."""

    gateway: Gateway
    asked: Asked
    prometheus: Prometheus
    page: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "key").write_text(KEY)
    model = ModelConfig("demo", "demo", workers=2, slots=2)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        Gateway(GatewayConfig(models=(model,), port=0, keys=(KeyConfig("prometheus", KEY),))) as gateway,
        httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=60) as client,
        running_prometheus(folder, f"127.0.0.1:{gateway.port}", credentials=folder / "key") as prometheus,
    ):
        asked = Asked(client)
        # What is counted between two readings is a rate.
        for text in ("What is 2+2?", "What is 3+5?", "What is 2+2?"):
            asked.ask(text)
            wait_for(lambda: prometheus.value(ANSWERED) == asked.whole + asked.streamed)
        yield Watched(gateway, asked, prometheus, client.get("/metrics").text)


class TestWhatIsRead:
    def test_the_target_is_up_and_no_reading_has_failed(self, watched: Watched) -> None:
        (target,) = watched.prometheus.get("targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        assert target["scrapeUrl"] == f"{watched.gateway.url}/metrics"
        assert watched.prometheus.value('min_over_time(up{job="llcuda"}[10m])') == 1

    def test_every_sample_of_the_page_is_taken(self, watched: Watched) -> None:
        names = set(re.findall(r"^([a-z_:]+)(?:\{| )", watched.page, re.MULTILINE))
        assert len(names) > 40
        known = set(watched.prometheus.get("label/__name__/values"))
        assert names - known == set()

    def test_the_workers_have_their_names(self, watched: Watched) -> None:
        for name in ("llcuda_worker_up", "llcuda_worker_slots", "llamacpp:prompt_tokens_total",
                     "llamacpp:tokens_predicted_total", "llamacpp:requests_processing"):  # fmt: skip
            found = watched.prometheus.query(name)
            assert sorted(labels["worker"] for labels, _ in found) == list(WORKERS), name
            assert {labels["model"] for labels, _ in found} == {"demo"}
            assert {labels["job"] for labels, _ in found} == {"llcuda"}
        assert [value for _, value in watched.prometheus.query("llcuda_worker_up")] == [1, 1]
        assert [value for _, value in watched.prometheus.query("llcuda_worker_slots")] == [2, 2]

    def test_the_counters_agree_with_what_was_asked(self, watched: Watched) -> None:
        value, asked = watched.prometheus.value, watched.asked
        assert value(ANSWERED) == asked.whole + asked.streamed
        assert value('llcuda_requests_total{endpoint="chat", status="400"}') == asked.refused
        assert value("sum(llcuda_rejected_total)") == asked.refused
        assert value("llcuda_prompt_tokens_total") == asked.prompt_tokens
        assert value("llcuda_completion_tokens_total") == asked.completion_tokens
        assert value("llcuda_time_to_first_token_seconds_count") == asked.whole + asked.streamed
        assert value("sum(llamacpp:tokens_predicted_total)") == asked.completion_tokens
        parts = "sum(llamacpp:prompt_tokens_total) + sum(llamacpp:prompt_tokens_cached_total)"
        assert value(parts) == pytest.approx(asked.prompt_tokens, rel=0.2)

    def test_quantiles_of_the_histograms_are_numbers(self, watched: Watched) -> None:
        for name in ("llcuda_time_to_first_token_seconds", "llcuda_inter_token_seconds", "llcuda_request_seconds"):
            found = watched.prometheus.value(f"histogram_quantile(0.95, sum by (le) ({name}_bucket))")
            assert found is not None
            assert 0 < found < 60

    def test_the_rules_are_loaded_and_nothing_is_wrong(self, watched: Watched) -> None:
        wait_for(lambda: all(rule["health"] != "unknown" for rule in read_rules(watched.prometheus)))
        rules = read_rules(watched.prometheus)
        assert len(rules) == 5
        assert {(rule["health"], rule["state"]) for rule in rules} == {("ok", "inactive")}


def test_without_keys_none_is_needed(tmp_path: Path) -> None:
    config = GatewayConfig(models=(ModelConfig("demo", "demo", on_demand=True),), port=0)
    with (
        Gateway(config) as gateway,
        running_prometheus(tmp_path, f"127.0.0.1:{gateway.port}") as prometheus,
    ):
        wait_for(lambda: prometheus.value("up") == 1)
        wait_for(lambda: prometheus.value('llcuda_requests_total{endpoint="metrics", status="200"}'))


def read_rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


def test_the_table_of_the_documentation_is_the_page(watched: Watched) -> None:
    text = (DEPLOY.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(llcuda_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    said = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    kinds = dict(re.findall(r"^# TYPE (llcuda_\w+) (\w+)$", watched.page, re.MULTILINE))
    found = {name: (kind, find_labels(watched.page, name)) for name, kind in kinds.items()}
    # Of each counter prometheus_client also says when it began; and there may be no GPU here.
    assert without_some(said) == without_some(found)


def find_labels(page: str, name: str) -> set[str]:
    given = re.findall(rf"^{name}(?:_bucket)?\{{(.*)\}} ", page, re.MULTILINE)
    return {label for labels in given for label in re.findall(r'(\w+)="', labels)} - {"le"}


def without_some(families: dict[str, tuple[str, set[str]]]) -> dict[str, tuple[str, set[str]]]:
    return {name: one for name, one in families.items() if not re.fullmatch(r"llcuda_gpu_.*|.*_created", name)}


def test_a_wrong_key_is_an_error_that_prometheus_shows(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-of-nobody")
    address = f"127.0.0.1:{watched.gateway.port}"
    with running_prometheus(tmp_path, address, credentials=tmp_path / "key") as prometheus:
        wait_for(lambda: prometheus.value("up") == 0)
        (found,) = prometheus.get("targets")["activeTargets"]
    assert "401" in found["lastError"]


def test_promtool_finds_nothing_but_the_colons_in_names_of_llama_server(watched: Watched) -> None:
    done = subprocess.run(
        [find_program("promtool"), "check", "metrics"],
        input=watched.page, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = done.stderr.splitlines()
    assert [line for line in found if not re.fullmatch(r"llamacpp:\w+ metric names should not contain ':'", line)] == []
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")),
        ("check", "rules", str(DEPLOY / "prometheus" / "alerts.yml")),
        ("test", "rules", str(DEPLOY.parent / "tests" / "data" / "alerts_test.yml")),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_takes_the_files(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [find_program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


class TestDashboard:
    def test_it_is_one_that_grafana_takes(self) -> None:
        assert DASHBOARD["schemaVersion"] >= 36
        assert DASHBOARD["title"]
        assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(set(ids)) == len(ids)
        rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
        assert rows == ["Traffic", "Latency", "Throughput", "Queue", "Workers", "GPU", "Gateway's own process"]
        for panel in PANELS:
            assert panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            letters = Counter(target["refId"] for target in panel["targets"])
            assert set(letters.values()) == {1}

    def test_no_panel_lies_over_another(self) -> None:
        places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
        assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
        for one, other in combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or above, (one, other)

    def test_the_source_is_a_variable_everywhere(self) -> None:
        assert list(VARIABLES) == ["datasource", "instance", "model", "worker"]
        assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
        source = {"type": "prometheus", "uid": "${datasource}"}
        asking = [*PANELS, *(target for panel in PANELS for target in panel["targets"])]
        assert all(one["datasource"] == source for one in asking)
        assert all(one["datasource"] == source for name, one in VARIABLES.items() if name != "datasource")

    def test_every_variable_has_its_values(self, watched: Watched) -> None:
        expected = {"instance": [f"127.0.0.1:{watched.gateway.port}"], "model": ["demo"], "worker": list(WORKERS)}
        for name, values in expected.items():
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", VARIABLES[name]["query"]["query"])
            assert asked is not None
            found = watched.prometheus.get(f"label/{asked[2]}/values", **{"match[]": substitute(asked[1])})
            assert found == values

    @pytest.mark.parametrize("expression", QUERIES)
    def test_every_query_has_an_answer(self, watched: Watched, expression: str) -> None:
        assert "$instance" in expression
        found = watched.prometheus.query(substitute(expression))
        if "llcuda_gpu_" in expression and "llcuda_gpu_" not in watched.page:
            assert found == []
        else:
            assert found
            assert all(math.isfinite(value) for _, value in found), found

    def test_a_model_that_there_is_not_has_nothing(self, watched: Watched) -> None:
        for panel in PANELS:
            for target in panel["targets"]:
                if "$model" in target["expr"]:
                    assert watched.prometheus.query(substitute(target["expr"], model="none")) == []


def substitute(expression: str, *, model: str = ".*") -> str:
    """Put in what Grafana does where all is chosen."""
    values = {"$__rate_interval": "1m", "$instance": ".*", "$model": model, "$worker": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression
