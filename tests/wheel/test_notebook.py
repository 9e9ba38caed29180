"""examples/colab_quickstart.ipynb, run cell by cell in a kernel of this environment, as Colab would."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

from llcuda.models.registry import read_registry
from tests.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOK = ROOT / "examples" / "colab_quickstart.ipynb"
TIMEOUT = 120
# The package is there already: pip has nothing to ask for, and the model is inside the wheel.
WITHOUT_NETWORK = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "LLCUDA_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


@dataclass
class Run:
    """What the cells wrote, by their ids, and which llama-servers the kernel had at the end of each."""

    output: dict[str, str] = field(default_factory=dict)
    servers: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def read_notebook() -> dict[str, Any]:
    return dict(json.loads(NOTEBOOK.read_text(encoding="utf-8")))


def read_cells(kind: str) -> dict[str, str]:
    return {cell["id"]: "".join(cell["source"]) for cell in read_notebook()["cells"] if cell["cell_type"] == kind}


def execute(client: Any, code: str) -> str:
    """Run the code in the kernel, and return all that it writes; an exception there is one here."""
    request = client.execute(code)
    written = []
    while True:
        message = client.get_iopub_msg(timeout=TIMEOUT)
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "error":
            raise AssertionError("\n".join(content["traceback"]))
        if kind == "stream":
            written.append(content["text"])
        if kind in {"execute_result", "display_data"}:
            written.append(content["data"]["text/plain"])
        if kind == "status" and content["execution_state"] == "idle":
            return "".join(written)


def count_servers(pid: int) -> int:
    return sum(process.name() == "llama-server" for process in psutil.Process(pid).children(recursive=True))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    folder = tmp_path_factory.mktemp("notebook")
    manager = KernelManager()
    manager.start_kernel(
        cwd=str(folder),
        env={**os.environ, **WITHOUT_NETWORK, "LLCUDA_HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.fixture(scope="module")
def ran(kernel: KernelManager) -> Run:
    """Run the whole notebook once."""
    run = Run()
    owner: Any = kernel.provisioner
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        for cell, code in read_cells("code").items():
            run.output[cell] = execute(client, code)
            run.servers[cell] = count_servers(owner.pid)
        run.report = json.loads(execute(client, "import json; print(json.dumps(report.to_dict()))"))
    finally:
        client.stop_channels()
    return run


def test_it_was_saved_clean_and_with_names_that_stay() -> None:
    notebook = read_notebook()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", identifier) for identifier in identifiers)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_it_names_no_address() -> None:
    assert "://" not in NOTEBOOK.read_text(encoding="utf-8")


def test_it_begins_with_a_title_and_the_package() -> None:
    assert next(iter(read_cells("markdown").values())).startswith("# ")
    assert next(iter(read_cells("code").values())) == "%pip install --quiet llcuda"


def test_the_bigger_models_are_in_the_registry_and_none_is_chosen() -> None:
    first, *_ = read_cells("code")["bigger"].splitlines()
    chosen, offered = first.split("# @param")
    assert chosen.strip() == 'bigger = ""'
    assert {name for name in json.loads(offered) if name} <= {entry.name for entry in read_registry()}


def test_every_cell_runs_without_a_traceback_and_without_a_network(ran: Run) -> None:
    assert list(ran.output) == list(read_cells("code"))
    assert not [cell for cell, output in ran.output.items() if "Traceback" in output or "ERROR" in output]


def test_it_answers_streams_and_converses(ran: Run) -> None:
    assert "4" in ran.output["answer"]
    assert "tokens/s" in ran.output["answer"]
    assert "Paris" in ran.output["stream"]
    assert "42" in ran.output["chat"]
    assert "Rome" in ran.output["chat"]


def test_the_proof_says_what_the_report_says(ran: Run) -> None:
    used = ran.report["device"] == "cuda"
    assert ran.report["reason"] in ran.output["proof"]
    assert ("The GPU is used:" in ran.output["proof"]) == used
    assert ("The GPU is not used:" in ran.output["proof"]) != used
    assert f"on the {ran.report['device'].upper()}" in ran.output["load"]


def test_what_can_be_used_and_what_is_used_agree(ran: Run) -> None:
    compatible = re.search(r"compatible: (True|False)", ran.output["compatible"])
    assert compatible
    assert (compatible[1] == "True") == (ran.report["device"] == "cuda")


def test_without_a_driver_it_says_so_and_with_one_it_shows_the_card(ran: Run) -> None:
    assert ("There is no nvidia-smi here" in ran.output["driver"]) != ("memory.used" in ran.output["driver"])


def test_asking_for_the_gpu_gives_it_or_an_error_with_the_reason(ran: Run) -> None:
    refused = re.search(r"^\w+Error: .+", ran.output["insist"], flags=re.MULTILINE)
    assert bool(refused) == (ran.report["device"] == "cpu")
    assert not refused or "\nTry: " in ran.output["insist"]


def test_one_server_runs_while_a_model_is_loaded_and_none_afterwards(ran: Run) -> None:
    assert ran.servers["install"] == 0
    assert ran.servers["load"] == ran.servers["chat"] == ran.servers["insist"] == 1
    assert ran.output["unload"].strip() == "unloaded"
    assert ran.servers["unload"] == 0
