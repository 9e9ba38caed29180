"""Make a smaller model of one that is here, with llama.cpp's quantiser, and keep it in the store."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.errors import ModelError, UsageError
from llcuda.gguf import read_gguf
from llcuda.models.file_names import parse_quantisation, strip_suffixes
from llcuda.models.resolve import resolve_model
from llcuda.models.stored import describe_facts
from llcuda.models.storing import check_stored_name
from llcuda.native import child_environment, find_executable, find_guard
from llcuda.store import ModelStore, get_digest
from llcuda.store.atomic_files import temporary_path, writing
from llcuda.store.progress_bar import show_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from llcuda.store import StoredModel

__all__ = ["quantise_model"]

_STEP = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_FAILED = re.compile(r"failed to quantize: (.+)|llama_quantize: (invalid ftype .+)")
_REQUANTIZING = re.compile(r"requantizing from type (\w+) is disabled")


def quantise_model(
    name: str | PathLike[str],
    quantisation: str,
    *,
    stored_as: str | None = None,
    imatrix: str | PathLike[str] | None = None,
    is_requantised: bool = False,
    threads: int | None = None,
    progress: bool = True,
) -> StoredModel:
    """Quantise a model to ``quantisation``, such as ``Q4_K_M``, and return what is in the store.

    It is called ``stored_as``, else as the model with the quantisation at its end. ``imatrix`` is an importance
    matrix, as ``llcuda-imatrix`` writes it. A model that is quantised already is refused without ``is_requantised``. A
    terminal shows a bar if ``progress``. Raises what :func:`resolve_model` raises, UsageError for a quantisation that
    llama.cpp does not know, and ModelError for what it cannot do.
    """
    model = resolve_model(name, progress=progress)
    own_name = stored_as or f"{_base(os.fspath(name))}-{quantisation}"
    check_stored_name(own_name)
    store = ModelStore()
    # Beside the files of the store: it is moved there, and swept away if this process is killed.
    target = temporary_path(store.root / "downloads" / "quantised")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    flags = [*(["--imatrix", os.fspath(imatrix)] if imatrix else []), *(["--allow-requantize"] * is_requantised)]
    last = [str(threads)] if threads else []
    try:
        _run([*flags, str(model.path), str(target), quantisation, *last], quantisation, progress=progress)
        info = read_gguf(target)
        digest = store.adopt(target)
    finally:
        target.unlink(missing_ok=True)
    source = f"{model.digest or get_digest(model.path)}, quantised to {quantisation} by llama.cpp"
    files = {f"{Path(own_name).name}.gguf": digest}
    return store.add(own_name, files, describe_facts(info, source=source))


def _base(name: str) -> str:
    """Return a model's name without its folder, its part, and its quantisation."""
    stem = strip_suffixes(name.rpartition("/")[2].rpartition(":")[2])
    label = parse_quantisation(f"{stem}.gguf")
    return stem.removesuffix(label).rstrip("-._") if label and stem.endswith(label) else stem


def _run(arguments: Sequence[str], quantisation: str, *, progress: bool) -> None:
    reasons: list[str] = []
    bar = show_bar(quantisation, None, is_shown=progress, delay=1.0, unit=" tensors")
    with bar, _start(arguments) as process:
        for line in process.stdout or ():
            if step := _STEP.match(line):
                bar.total = int(step[2])
                bar.update(int(step[1]) - bar.n)
            if failed := _FAILED.search(line):
                reasons.append(failed[1] or failed[2])
    if process.returncode == 0:
        return
    reason = next(iter(reasons), f"llama-quantize ended with status {process.returncode}")
    if reason.startswith("invalid ftype"):
        hint = "`llcuda-quantize --help` lists them: Q4_K_M, Q8_0 …"
        raise UsageError(f"llama.cpp has no quantisation {quantisation!r}", hint=hint)
    found = _REQUANTIZING.search(reason)
    hint = "Quantise the F16 model, or use `llcuda models quantize --allow-requantize`." if found else ""
    raise ModelError(f"the model cannot be quantised: {reason}", hint=hint)


@contextmanager
def _start(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run the quantiser under the guard, which ends it if this process dies, and wait for its end."""
    program = find_executable("llama-quantize")
    theirs, ours = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [str(find_guard()), "--parent", str(os.getpid()), "--fd", str(theirs), "--", str(program), *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(theirs,),
                env=child_environment(program), text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(theirs)
        with process:
            yield process
            process.wait()
    finally:
        # Without a word: what is interrupted ends in haste.
        os.close(ours)
