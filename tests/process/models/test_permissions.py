"""A model that this user may not read: the error says how to change that."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.made_models.gguf_builder import small_model

if TYPE_CHECKING:
    from pathlib import Path

READ_AS_NOBODY = """
import os, sys
from llcuda.errors import ModelNotFoundError
from llcuda.models import resolve_model
descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
os.fchdir(descriptor)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    resolve_model("./closed.gguf")
except ModelNotFoundError as error:
    print(error.hint)
"""


def test_a_file_that_may_not_be_read_says_how_to_change_that(tmp_path: Path) -> None:
    path = tmp_path / "closed.gguf"
    path.write_bytes(small_model().build())
    path.chmod(0)
    # The folder is opened first, and is open to all: root becomes somebody who may not read the file.
    tmp_path.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", READ_AS_NOBODY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert "chmod u+r closed.gguf" in result.stdout, result.stderr
