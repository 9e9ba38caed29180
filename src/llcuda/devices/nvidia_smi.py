"""The second way: running nvidia-smi, and reading what it prints. One function runs, another one reads."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.devices.inventory import Failure, Gpu, GpuUsage, Inventory, Situation
from llcuda.settings import drop_secrets

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FIELDS = "index,name,uuid,compute_cap,memory.total,memory.free,driver_version"
_USAGE_FIELDS = "index,name,uuid,memory.used,memory.total,utilization.gpu,temperature.gpu"
_FORMAT = "--format=csv,noheader,nounits"
_KILL_TIMEOUT = 0.5
_MIB = 1 << 20
_CELLS = 4
"""The cells of a row after the UUID."""

# Drivers from 610 on say UMD (user mode driver) and KMD (kernel mode driver).
_CUDA = re.compile(r"CUDA(?: UMD)? Version\s*:\s*(\d+\.\d+)")
_DRIVER = re.compile(r"(?:Driver|KMD) Version\s*:\s*(\d+\.\d+[\d.]*)")
_GPU_ROW = re.compile(r"^\|\s+(\d+)\s+\S.*\|.*\|.*\|$")
_MIG_MODE = re.compile(r"\|\s+(Enabled|Disabled|N/A)\*?\s*\|$")
_MIG_ROW = re.compile(r"^\|\s+(\d+)\s+\d+\s+\d+\s+(\d+)\s+\|\s*(\d+)\s*MiB\s*/\s*(\d+)\s*MiB")
_LISTED_GPU = re.compile(r"^GPU (\d+): .*\(UUID: GPU-")
_LISTED_SLICE = re.compile(r"^\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")

_WORDS = (
    (Situation.DRIVER_MISMATCH, "Driver/library version mismatch"),
    (Situation.PERMISSION, "Insufficient Permissions"),
    (Situation.GPU_LOST, "GPU is lost"),
    (Situation.GPU_LOST, "Unable to determine the device handle"),
    (Situation.GPU_LOST, "has fallen off the bus"),
    (Situation.WSL_NO_GPU, "GPU access blocked by the operating system"),
    (Situation.NO_DEVICES, "No devices were found"),
    (Situation.NO_DRIVER, "couldn't communicate with the NVIDIA driver"),
    (Situation.NO_DRIVER, "Driver Not Loaded"),
)


@dataclass(frozen=True, slots=True)
class Output:
    """What one run of nvidia-smi printed; ``returncode`` is None for one that had to be killed."""

    returncode: int | None
    stdout: str = ""
    stderr: str = ""


def read_nvidia_smi(program: Path, *, timeout: float, environ: Mapping[str, str]) -> Inventory | Failure:
    """Return what nvidia-smi lists, or why it does not, after at most ``timeout`` seconds for all its runs."""
    deadline = monotonic() + timeout

    def run(*arguments: str) -> Output:
        return run_nvidia_smi(program, arguments, timeout=max(deadline - monotonic(), 0.0), environ=environ)

    query = run(f"--query-gpu={_FIELDS}", _FORMAT)
    failure = classify_output(query)
    if failure:
        return failure
    header = run().stdout
    listing = run("-L").stdout if "Enabled" in header else ""
    found = parse_nvidia_smi(query.stdout, header=header, listing=listing)
    if found.gpus or found.empty_mig:
        return found
    return Failure(Situation.UNKNOWN, "nvidia-smi prints nothing that can be understood", found.driver)


def read_smi_usage(program: Path, *, timeout: float, environ: Mapping[str, str]) -> tuple[GpuUsage, ...] | Failure:
    """Return what nvidia-smi says that each GPU does now, or why it does not, after at most ``timeout`` seconds."""
    output = run_nvidia_smi(program, [f"--query-gpu={_USAGE_FIELDS}", _FORMAT], timeout=timeout, environ=environ)
    return classify_output(output) or parse_usage(output.stdout)


def run_nvidia_smi(program: Path, arguments: Sequence[str], *, timeout: float, environ: Mapping[str, str]) -> Output:
    """Run nvidia-smi in a session of its own; after ``timeout`` seconds it and its children are killed."""
    import subprocess  # noqa: PLC0415 - not needed if NVML answers

    try:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**drop_secrets(environ), "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        return Output(127, stderr=f"{program} cannot be run: {error.strerror}")
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        return Output(None, stderr=f"nvidia-smi gave no answer within {timeout:g} seconds")
    except BaseException:
        _kill(process)
        raise
    return Output(process.returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children; one that sits in the driver dies when the driver lets go, unwatched."""
    import subprocess  # noqa: PLC0415
    import threading  # noqa: PLC0415

    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
    try:
        process.wait(timeout=_KILL_TIMEOUT)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.wait, name="llcuda-nvidia-smi", daemon=True).start()


def classify_output(output: Output) -> Failure | None:
    """Return why a run of nvidia-smi is no answer, or None for one that may be."""
    if output.returncode is None:
        return Failure(Situation.TIMEOUT, output.stderr)
    text = f"{output.stdout}\n{output.stderr}"
    rows = any("GPU-" in line for line in output.stdout.splitlines())
    for situation, words in _WORDS:
        if words in text and not rows:
            return Failure(situation, _first_line(text))
    if output.returncode and not rows:
        return Failure(Situation.UNKNOWN, f"nvidia-smi ended with status {output.returncode}: {_first_line(text)}")
    return None


def parse_nvidia_smi(query: str, *, header: str = "", listing: str = "") -> Inventory:
    """Return what nvidia-smi's output says: of ``--query-gpu``, without arguments, and of ``-L``.

    What is cut off or unknown is left out. A GPU in MIG mode stands there as its slices.
    """
    rows = [row for row in map(_parse_row, _complete_lines(query)) if row]
    slices = _parse_slices(header, listing, parents={gpu.index: gpu for gpu, _ in rows})
    in_mig_mode = _parse_mig_modes(header) | slices.keys()
    gpus: list[Gpu] = []
    for gpu, _ in rows:
        gpus += slices.get(gpu.index, ()) if gpu.index in in_mig_mode else (gpu,)
    cuda, driver = _CUDA.search(header), _DRIVER.search(header)
    return Inventory(
        gpus=tuple(gpus),
        driver=next((version for _, version in rows if version), driver[1] if driver else None),
        cuda=cuda[1] if cuda else None,
        lost=tuple(line.strip() for line in query.splitlines() if "Unable to determine the device handle" in line),
        empty_mig=tuple(gpu.name for gpu, _ in rows if gpu.index in in_mig_mode and gpu.index not in slices),
    )


def _complete_lines(text: str) -> list[str]:
    # What follows the last newline was cut off: half a version is worse than none.
    return text[: text.rfind("\n") + 1].splitlines()


def _split_row(line: str) -> tuple[int, str, str, list[str]] | None:
    """Return index, name, UUID and the other cells of one row, None if it is none; a name may have commas."""
    cells = [cell.strip() for cell in line.split(",")]
    at = next((place for place, cell in enumerate(cells) if cell.startswith("GPU-")), 0)
    if at < 2 or not cells[0].isdigit():  # noqa: PLR2004 - index and name come first
        return None
    return int(cells[0]), ", ".join(cells[1:at]), cells[at], cells[at + 1 :]


def _parse_row(line: str) -> tuple[Gpu, str] | None:
    """Return the GPU of one row and its driver's version, None for a row that is none."""
    row = _split_row(line)
    if not row or len(row[3]) != _CELLS:
        return None
    index, name, uuid, (capability, total, free, driver) = row
    gpu = Gpu(
        index=index,
        name=name,
        uuid=uuid,
        capability=capability if re.fullmatch(r"\d+\.\d+", capability) else "",
        memory_total_mib=_parse_number(total) or 0,
        memory_free_mib=_parse_number(free),
    )
    return gpu, driver if re.fullmatch(r"\d+\.\d+[\d.]*", driver) else ""


def parse_usage(text: str) -> tuple[GpuUsage, ...]:
    """Return what the rows of ``--query-gpu`` say; rows that are none are left out."""
    rows = [row for row in map(_split_row, _complete_lines(text)) if row and len(row[3]) == _CELLS]
    return tuple(_make_usage(row) for row in rows)


def _make_usage(row: tuple[int, str, str, list[str]]) -> GpuUsage:
    index, name, uuid, cells = row
    used, total, percent, celsius = map(_parse_number, cells)
    return GpuUsage(
        index=index,
        name=name,
        uuid=uuid,
        memory_used_bytes=None if used is None else used * _MIB,
        memory_total_bytes=None if total is None else total * _MIB,
        utilization=None if percent is None else percent / 100,
        temperature_celsius=None if celsius is None else float(celsius),
    )


def _parse_number(cell: str) -> int | None:
    # Not numbers: [N/A], [Not Supported], [Insufficient Permissions], [Unknown Error], [GPU is lost].
    return int(cell) if cell.isdigit() else None


def _parse_mig_modes(header: str) -> set[int]:
    """Return the indices of the GPUs whose MIG mode is enabled, from the table of GPUs."""
    enabled: set[int] = set()
    index = -1
    for line in header.partition("MIG devices:")[0].splitlines():
        row, mode = _GPU_ROW.match(line), _MIG_MODE.search(line)
        index = int(row[1]) if row else index
        if mode and mode[1] == "Enabled":
            enabled.add(index)
    return enabled


def _parse_slices(
    header: str, listing: str, *, parents: Mapping[int, Gpu]
) -> dict[int, tuple[Gpu, ...]]:
    """Return the slices of each GPU: names and UUIDs from the listing, memory and numbers from the table."""
    table = {(int(row[1]), int(row[2])): row for row in map(_MIG_ROW.match, header.splitlines()) if row}
    slices: dict[int, tuple[Gpu, ...]] = {}
    index = -1
    for line in listing.splitlines():
        parent, found = _LISTED_GPU.match(line), _LISTED_SLICE.match(line)
        index = int(parent[1]) if parent else index
        if not found or index not in parents:
            continue
        slice_ = _make_slice(parents[index], found, table.get((index, int(found[2]))))
        slices[index] = (*slices.get(index, ()), slice_)
    return slices


def _make_slice(parent: Gpu, found: re.Match[str], row: re.Match[str] | None) -> Gpu:
    return Gpu(
        index=parent.index,
        name=f"{parent.name} MIG {found[1]}",
        uuid=found[3],
        capability=parent.capability,
        memory_total_mib=int(row[4]) if row else 0,
        memory_free_mib=int(row[4]) - int(row[3]) if row else None,
        mig_profile=found[1],
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "it printed nothing")
