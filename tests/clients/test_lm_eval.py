"""lm-eval asks a small task of a model through its local-chat-completions, several questions at a time."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from tests.process.gateway.clients.gateways import KEY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Program

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 60, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
SUMS = [{"question": f"What is {number}+2?", "answer": f"{number} + 2 = {number + 2}."} for number in range(6)]


def test_a_task_is_solved(program: Program, v1: str, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in SUMS), encoding="utf-8")
    (tmp_path / "sums.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    program(
        sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--tasks", "sums", "--include_path",
        str(tmp_path), "--apply_chat_template", "--output_path", str(tmp_path / "results"), "--model_args",
        f"model=demo,base_url={v1}/chat/completions,num_concurrent=3,max_retries=1,tokenized_requests=False",
        OPENAI_API_KEY=KEY, HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    (found,) = (tmp_path / "results").rglob("results_*.json")
    assert json.loads(found.read_text(encoding="utf-8"))["results"]["sums"]["exact_match,none"] == 1.0
