"""Run llama.cpp's own tests of its server against it, and what passes through the gateway, and compare.

    python -m tools.server_tests [--folder build/server_tests] [PYTEST-ARGUMENT ...]

The tests come from the source package that vendor/llama.cpp.lock pins. They ask for models that would be downloaded;
they get the demo model, or a reranker that is made: many fail for that alone, whatever serves it. What passes bare must
pass through the gateway, or be among the differences with its reason. Ends with the number of those that do neither.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from tests.made_models.tiny_reranker import write_tiny_reranker
from tools.binaries.fetch import fetch
from tools.binaries.lock import Lock, read_lock
from tools.server_tests.differences import DIFFERENCES

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(__file__).parents[2]
_INSIDE = "tools/server/tests"
_WORDS = ("machine", "learning", "is", "a", "physical", "system", "paris", "capitale", "de", "la", "france")
_SECONDS = 30
# utils.py imports it, and would download with it.
_NO_DOWNLOADS = 'def download(*_: object, **__: object) -> None:\n    raise OSError("nothing is downloaded")\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each file of tests and for each difference, and return how many have no reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/server_tests"))
    given, chosen = parser.parse_known_args(arguments)
    folder = given.folder.resolve()
    _get_tests(folder)
    bare = _run("bare", folder, chosen or ["unit"])
    passed = sorted(test for test, outcome in bare.items() if outcome == "passed")
    wanted = folder / "passed.txt"
    wanted.write_text("\n".join(passed), encoding="utf-8")
    through = _run("gateway", folder, [f"@{wanted}"])
    return _compare(bare, passed=passed, through=through)


def _get_tests(folder: Path) -> None:
    lock = read_lock()
    fetch(Lock({**lock.data, "include": [_INSIDE], "exclude": []}), tree=folder / "source")
    (folder / "wget.py").write_text(_NO_DOWNLOADS, encoding="utf-8")
    write_tiny_reranker(folder / "reranker.gguf", _WORDS)


def _run(how: str, folder: Path, chosen: Sequence[str]) -> dict[str, str]:
    server, outcomes, tests = folder / f"{how}.sh", folder / f"{how}.txt", folder / "source" / _INSIDE
    places = (str(tests), str(folder), str(_ROOT), os.environ.get("PYTHONPATH", ""))
    command = f'{sys.executable} -m tools.server_tests.stand_in {how} {folder / "reranker.gguf"} "$@"'
    server.write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
    server.chmod(0o755)
    outcomes.write_text("", encoding="utf-8")
    environment = {
        **os.environ, "LLAMA_SERVER_BIN_PATH": str(server), "SERVER_TESTS_OUTCOMES": str(outcomes),
        "PYTHONPATH": os.pathsep.join(filter(None, places)), "NO_PROXY": "*",
    }  # fmt: skip
    pytest = [sys.executable, "-m", "pytest", "-p", "tools.server_tests.plugin", "-q", "--noconftest"]
    with (folder / f"{how}.log").open("w", encoding="utf-8") as log:
        subprocess.run(
            [*pytest, "--timeout", str(_SECONDS), "--tb", "short", *chosen],
            cwd=tests, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    lines = outcomes.read_text(encoding="utf-8").splitlines()
    return {test: outcome for outcome, _, test in (line.partition(" ") for line in reversed(lines))}


def _compare(bare: dict[str, str], *, passed: Sequence[str], through: dict[str, str]) -> int:
    all_of, passed_of, through_of = (
        Counter(test.partition("::")[0] for test in tests)
        for tests in (bare, passed, [test for test in passed if through.get(test) == "passed"])
    )
    for file in sorted(all_of):
        print(f"{file}: {all_of[file]} tests, {passed_of[file]} pass bare, {through_of[file]} through the gateway")
    failed = [test for test in passed if through.get(test) != "passed"]
    for test in failed:
        print(f"{test}: {find_reason(test) or 'NO REASON'}")
    return sum(find_reason(test) is None for test in failed)


def find_reason(test: str) -> str | None:
    """Return why a test that passes bare need not pass through the gateway."""
    return next((reason for pattern, reason in DIFFERENCES.items() if fnmatchcase(test, f"unit/{pattern}")), None)


if __name__ == "__main__":
    sys.exit(main())
