"""The workflows hold no program, no secret and no moving target: they call scripts that also run on a laptop."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.places import ROOT

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / "tools" / "ci").iterdir() if path.suffix in {".sh", ".py"})
SOURCED = "environment.sh"
CUDA_SOURCE = ROOT / "vendor" / "llama.cpp" / "ggml" / "src" / "ggml-cuda"
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+( .*)?")
LONGEST_MINUTES = 360
# What a step of ours may read of the event: facts that nobody outside of the project writes.
HARMLESS = re.compile(r"(matrix\.\w+|github\.(ref|ref_type|run_id|event_name)\b.*|hashFiles\(.*\))")

if not WORKFLOWS:
    pytest.skip("an sdist holds no workflows", allow_module_level=True)


@dataclass(frozen=True)
class Step:
    """One step and where it stands."""

    job: str
    content: dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{path.stem}.{name}", job) for path in WORKFLOWS for name, job in load(path)["jobs"].items()]


def steps() -> list[Step]:
    return [Step(name, step) for name, job in jobs() for step in job["steps"]]


def commands() -> list[tuple[str, str]]:
    return [(step.job, step.content["run"]) for step in steps() if "run" in step.content]


JOBS = [pytest.param(job, id=name) for name, job in jobs()]
COMMANDS = [pytest.param(command, id=f"{job}: {command.split()[0]}") for job, command in commands()]


def images(job: dict[str, Any]) -> list[str]:
    candidates = [job, *job.get("strategy", {}).get("matrix", {}).get("include", []), job.get("env", {})]
    named = [entry.get("image") or entry.get("IMAGE") for entry in candidates]
    return [image for image in named if image and "${{" not in image]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_with_its_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8"))
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_nothing_and_runs_once_for_each_branch(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    assert "github.ref" in workflow["concurrency"]["group"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_has_secrets_or_runs_with_the_rights_of_the_base(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets" not in text
    assert "pull_request_target" not in text
    assert "workflow_run" not in text


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_only_read_and_ends_in_time(job: dict[str, Any]) -> None:
    assert job["permissions"] == {"contents": "read"}
    assert 0 < job["timeout-minutes"] <= LONGEST_MINUTES
    assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"])


def test_a_checkout_leaves_no_credentials_behind() -> None:
    checkouts = [step for step in steps() if step.content.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(jobs())
    assert all(step.content["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_step_is_one_call_of_a_script_of_this_repository(command: str) -> None:
    assert "\n" not in command.strip()
    assert not re.search(r"[;&|`<>]|\$\(|\$\{\{", command)
    called = [word for word in shlex.split(command) if re.match(r"(tools/ci|\.ci)/", word)]
    assert shlex.split(command)[0] == called[0]
    for script in called:
        assert (ROOT / script).is_file(), f"{script} is not there"
        assert os.access(ROOT / script, os.X_OK), f"{script} cannot be executed"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_expression_reads_nothing_that_a_stranger_writes(path: Path) -> None:
    found = re.findall(r"\$\{\{\s*(.*?)\s*\}\}", path.read_text(encoding="utf-8"))
    assert [expression for expression in found if not HARMLESS.fullmatch(expression)] == []


def test_an_image_is_pinned_by_digest_or_to_the_last_digit_of_its_toolkit() -> None:
    used = [image for _, job in jobs() for image in images(job)]
    assert used
    digest, toolkit = r".+@sha256:[0-9a-f]{64}", r"nvidia/cuda:\d+\.\d+\.\d+-devel-\w+"
    assert [image for image in used if not re.fullmatch(rf"{digest}|{toolkit}", image)] == []


def test_the_wheel_is_tried_on_every_python_that_the_package_is_for() -> None:
    supported = re.findall(r'Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tried = load(ROOT / ".github/workflows/wheels.yml")["jobs"]["try"]["strategy"]["matrix"]["include"]
    assert [entry["python"] for entry in tried] == supported
    assert all(entry["image"].startswith(f"python:{entry['python']}-slim@") for entry in tried)


def test_every_script_is_called_by_a_workflow_by_another_script_or_by_a_reader_of_the_documentation() -> None:
    callers = [*WORKFLOWS, *SCRIPTS, *(ROOT / "docs").glob("*.md")]
    texts = {path: path.read_text(encoding="utf-8") for path in callers}
    called = {script for script in SCRIPTS for path, text in texts.items() if path != script and script.name in text}
    assert [script.name for script in SCRIPTS if script not in called] == []


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.suffix == ".sh"], ids=lambda path: path.name)
def test_a_shell_script_stops_at_the_first_fault_and_says_what_it_is_for(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    if script.name == SOURCED:
        assert not os.access(script, os.X_OK)
        return
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert next(line for line in lines if not line.startswith("#")) == "set -euo pipefail"


def test_the_stub_driver_has_every_function_that_the_cuda_backend_links_against() -> None:
    if not CUDA_SOURCE.is_dir():
        pytest.skip("the source of llama.cpp is not here: python prepare_binaries.py fetch")
    sources = [path for path in CUDA_SOURCE.rglob("*.cu*") if path.is_file()]
    called = {
        name
        for path in sources
        for name in re.findall(r"\b(cu(?:Mem|Device|Get|Ctx|Module|Launch|Func)\w+)\(", path.read_text("utf-8"))
    }
    stub = (ROOT / "tools" / "ci" / "stub_driver.c").read_text(encoding="utf-8")
    offered = set(re.findall(r"^(?:NOTHING\(|CUresult )(cu\w+)", stub, flags=re.MULTILINE))
    assert called
    assert called - offered == set()
