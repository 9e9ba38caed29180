"""A folder that looks like the root of another machine: its PCI bus, device nodes, driver files and libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.devices.machine import AMD, INTEL, NVIDIA, Machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VENDORS = {"nvidia": NVIDIA, "amd": AMD, "intel": INTEL, "virtio": "0x1af4"}
NVIDIA_SMI = "/usr/bin/nvidia-smi"
LIBRARY_FOLDER = "/usr/lib/x86_64-linux-gnu"
NVML, LIBCUDA = f"{LIBRARY_FOLDER}/libnvidia-ml.so.1", f"{LIBRARY_FOLDER}/libcuda.so.1"
DRIVER_FILE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Fri Jan  3 00:00:00 UTC 2025\n"
    "GCC version:  gcc version 12.3.0\n"
)


def build_machine(
    root: Path,
    *,
    cards: str = "",
    nodes: str = "",
    driver: str = "",
    libraries: str = "",
    files: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Machine:
    """Return the machine.

    ``cards`` are ``vendor/driver/power``, with ``-`` for nothing; ``nodes`` names in /dev; ``libraries`` full paths of
    files that begin as a 64-bit library does; ``driver`` the version of the kernel module that is loaded.
    """
    machine = Machine(root, environ=environ or {})
    for name in ("/dev", "/proc", "/sys/bus/pci/devices", "/usr/bin", LIBRARY_FOLDER):
        machine.path(name).mkdir(parents=True, exist_ok=True)
    for at, card in enumerate(cards.split()):
        vendor, kernel_driver, power = (card.split("/") + ["-", "D0"][card.count("/") :])[:3]
        _add_card(machine, f"0000:{at:02x}:00.0", vendor=vendor, driver=kernel_driver, power=power)
    contents = {f"/dev/{node}": "" for node in nodes.split()}
    contents.update((path, "\x7fELF\x02") for path in libraries.split())
    if driver:
        contents["/proc/driver/nvidia/version"] = DRIVER_FILE.format(version=driver)
    for path, text in {**contents, **(files or {})}.items():
        machine.path(path).parent.mkdir(parents=True, exist_ok=True)
        machine.path(path).write_text(text, encoding="utf-8")
    return machine


def _add_card(machine: Machine, address: str, *, vendor: str, driver: str, power: str) -> None:
    folder = machine.path(f"/sys/bus/pci/devices/{address}")
    folder.mkdir()
    (folder / "class").write_text("0x030000\n")
    (folder / "vendor").write_text(f"{VENDORS[vendor]}\n")
    (folder / "power_state").write_text(f"{power}\n")
    if driver != "-":
        (folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
