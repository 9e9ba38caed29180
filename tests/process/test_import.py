"""What `import llcuda` does: nothing that anybody could see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROBE = """
import json, os, sys, sysconfig, signal, warnings
import importlib.util

package = os.path.dirname(importlib.util.find_spec("llcuda").origin)
before = {
    "environ": dict(os.environ), "path": list(sys.path), "filters": list(warnings.filters), "cwd": os.getcwd(),
    "signals": [signal.getsignal(number) for number in signal.valid_signals()], "hook": sys.excepthook,
}
modules = set(sys.modules)
events = []
sys.addaudithook(lambda event, arguments: events.append((event, [str(argument) for argument in arguments])))
import llcuda
seen = list(events)
after = {
    "environ": dict(os.environ), "path": list(sys.path), "filters": list(warnings.filters), "cwd": os.getcwd(),
    "signals": [signal.getsignal(number) for number in signal.valid_signals()], "hook": sys.excepthook,
}
print(json.dumps({
    "changed": [key for key in before if before[key] != after[key]],
    "loaded": sorted(set(sys.modules) - modules),
    "standard": sorted(sys.stdlib_module_names),
    "events": seen,
    "package": package,
    "stdlib": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(json.__file__)],
    "threads": sys.modules["threading"].active_count() if "threading" in sys.modules else 1,
    "loggers": list(map(str, sys.modules["logging"].root.handlers)) if "logging" in sys.modules else [],
}))
"""
# Reading modules is what an import is; whatever else touches the machine has one of these prefixes.
TOUCHES = ("os.", "socket.", "subprocess.", "shutil.", "tempfile.", "urllib.", "ctypes.", "pty.", "fcntl.", "signal.")
IMPORT_SYSTEM = {"os.listdir", "os.scandir"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # -B: byte code that Python itself writes is not ours. A folder of its own: the import must not depend on one.
    folder = tmp_path_factory.mktemp("cwd")
    paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROBE],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert list(folder.iterdir()) == []
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.stderr == ""
    return result


def test_import_loads_the_standard_library_alone(report: dict[str, Any]) -> None:
    foreign = {name.partition(".")[0] for name in report["loaded"]} - set(report["standard"]) - {"llcuda"}
    assert foreign == set()


def test_import_loads_no_heavy_module(report: dict[str, Any]) -> None:
    heavy = {
        "asyncio",
        "http.client",
        "requests",
        "huggingface_hub",
        "subprocess",
        "ssl",
        "socket",
        "logging",
        "urllib.request",
    }
    assert heavy & set(report["loaded"]) == set()


def test_import_opens_nothing_but_modules(report: dict[str, Any]) -> None:
    roots = tuple(str(Path(path)) for path in (report["package"], *report["stdlib"]))
    opened = [arguments[0] for event, arguments in report["events"] if event == "open"]
    assert [path for path in opened if not (path.startswith(roots) and path.endswith((".py", ".pyc", ".so")))] == []


def test_import_writes_nothing(report: dict[str, Any]) -> None:
    modes = [arguments[1] for event, arguments in report["events"] if event == "open"]
    assert set(modes) <= {"r", "rb", "None"}


def test_import_touches_nothing_of_the_machine(report: dict[str, Any]) -> None:
    touched = {event for event, _ in report["events"] if event.startswith(TOUCHES)}
    assert touched - IMPORT_SYSTEM == set()


def test_import_changes_nothing(report: dict[str, Any]) -> None:
    assert report["changed"] == []
    assert report["threads"] == 1
    assert report["loggers"] == []
