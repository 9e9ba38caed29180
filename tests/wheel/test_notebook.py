"""examples/colab_quickstart.ipynb, run cell by cell in a kernel of this environment, as Colab would.

It runs twice: with the GPUs of this machine, and with a T4 that is not there (tests/standins/fake_gpu.c).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

from llcuda.models.registry import read_registry
from tests.inputs.bundles import LIBRARY
from tests.places import ROOT
from tests.process.server.test_offload import compile_backends
from tests.upgrading import write_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOK = ROOT / "examples" / "colab_quickstart.ipynb"
TIMEOUT = 120
# The package is there already: pip has nothing to ask for, and the model is inside the wheel.
PUT_GPU = """
import sys
sys.path.insert(0, {root!r})
from tests.upgrading import put_gpu
put_gpu()
from llcuda.installer import sources
sources.HUB_SOURCE = {bundle!r}
"""
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
    paths = {"LLCUDA_HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    manager.start_kernel(
        cwd=str(folder),
        env={**os.environ, **WITHOUT_NETWORK, **paths, "GGML_FAKE_GPU": "4096"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def run_notebook(kernel: KernelManager, *, before: str = "") -> Run:
    run = Run()
    owner: Any = kernel.provisioner
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        execute(client, before)
        for cell, code in read_cells("code").items():
            run.output[cell] = execute(client, code)
            run.servers[cell] = count_servers(owner.pid)
        run.report = json.loads(execute(client, "import json; print(json.dumps(report.to_dict()))"))
    finally:
        client.stop_channels()
    return run


@pytest.fixture(scope="module")
def ran_here(kernel: KernelManager) -> Run:
    """Run the whole notebook once."""
    return run_notebook(kernel)


@pytest.fixture(scope="module")
def ran_with_a_gpu(kernel: KernelManager, binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run it once more on a machine that has got a T4, and whose releases have a backend for it."""
    folder = tmp_path_factory.mktemp("backend")
    library = compile_backends(folder, binaries) / "fake" / LIBRARY
    bundle = write_backend(folder / "bundle", library, binaries=binaries)
    return run_notebook(kernel, before=PUT_GPU.format(root=str(ROOT), bundle=str(bundle)))


@pytest.fixture(params=["ran_here", "ran_with_a_gpu"])
def ran(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
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
    assert next(iter(read_cells("code").values())).endswith("%pip install --quiet {package}")


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


def test_a_gpu_that_has_no_backend_gets_one_and_is_used(ran_with_a_gpu: Run) -> None:
    assert "Installed cuda12, and proved it on Tesla T4." in ran_with_a_gpu.output["gpu"]
    assert ran_with_a_gpu.report["device"] == "cuda"
    assert "The GPU is used: 4 of 4 layers are on it." in ran_with_a_gpu.output["proof"]


def test_it_says_what_is_here_and_what_the_package_carries(ran_here: Run) -> None:
    assert re.search("^backends: +\\S", ran_here.output["status"], re.MULTILINE)
    used = ran_here.report["device"] == "cuda"
    assert ("Everything below runs on the CPU." in ran_here.output["gpu"]) != used


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
