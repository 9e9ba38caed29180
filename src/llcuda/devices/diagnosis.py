"""What is wrong if no GPU can be used: each situation recognised, told in a sentence, with what to do about it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from llcuda.devices.inventory import Devices, Failure, Situation
from llcuda.devices.machine import AMD, INTEL, NVIDIA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.devices.machine import Display, Machine

_START_WITH_GPUS = {
    "docker": "Start the container with --gpus all (the host needs the NVIDIA Container Toolkit).",
    "podman": "Start the container with --device nvidia.com/gpu=all (the host needs the NVIDIA Container Toolkit).",
    "kubernetes": 'Request a GPU for the container: resources.limits: {"nvidia.com/gpu": 1}.',
    "container": "Give the container the host's GPUs and driver, for docker with --gpus all.",
}
_INSTALL_DRIVER = "Install NVIDIA's driver (on Ubuntu: sudo ubuntu-drivers install), and reboot."
_LOAD_DRIVER = (
    "Try `sudo modprobe nvidia`; if that fails, dmesg says why: often Secure Boot refuses an unsigned module, or "
    "the module was not built for this kernel (reinstall the driver)."
)
_SWITCH_ON = "Switch the GPU on: `sudo prime-select on-demand` or your laptop's tool for it, and reboot."
_WINDOWS_DRIVER = (
    "Install NVIDIA's driver in Windows, none inside WSL, then run `wsl --update` and `wsl --shutdown` in Windows."
)
_NOTEBOOK = {
    "colab": "Choose Runtime, Change runtime type, T4 GPU.",
    "kaggle": "Choose Settings, Accelerator, GPU T4 x2.",
}


def _no_gpu(machine: Machine, situation: Situation, detail: str, *, remedy: str = "") -> Devices:
    """Return the answer for a machine of whose GPUs nothing is known."""
    return Devices((), (), machine.driver_version(), None, "none", situation, detail, remedy)


def explain_without_asking(machine: Machine) -> Devices | None:
    """Return the answer if cheap facts suffice for it, None if the driver must be asked.

    It takes milliseconds, and is the whole of the detection on a machine that has no NVIDIA GPU.
    """
    if machine.is_jetson():
        detail = "This is an NVIDIA Jetson, which llcuda's CUDA backends do not support."
        return _no_gpu(machine, Situation.JETSON, detail)
    if machine.nodes():
        return None
    displays = machine.displays()
    cards = [display for display in displays if display.vendor == NVIDIA]
    if machine.container() and (machine.has_driver() or any(card.driver == "nvidia" for card in cards)):
        return _container(machine)
    if not cards and not machine.has_driver():
        return _no_card(machine, displays)
    taken = next((card.driver for card in cards if card.driver not in {"", "nvidia"}), "")
    if taken or not machine.find_library("libnvidia-ml.so.1"):
        # A power state proves nothing here: a card that no driver of NVIDIA holds sleeps whenever it may.
        off = not taken and _was_switched_off(machine, displays)
        return _hybrid_off(machine) if off else _no_driver(machine, taken)
    return None


def explain_failure(machine: Machine, failure: Failure, *, source: str) -> Devices:
    """Return the answer if the driver was asked and named no GPU."""
    situation = failure.situation
    # Only a driver that answers is touched again: to open the node of one that hangs would hang here.
    refused = machine.open_error("/dev/nvidiactl") if situation in {Situation.PERMISSION, Situation.UNKNOWN} else 0
    if situation is Situation.PERMISSION or refused in {errno.EACCES, errno.EPERM}:
        return _permission(machine, refused)
    if situation in {Situation.NO_DRIVER, Situation.NO_DEVICES, Situation.UNKNOWN}:
        found = _explain_absence(machine, failure)
        if found:
            return found
    detail, remedy = _TEXTS.get(situation, _TEXTS[Situation.UNKNOWN])
    driver = failure.driver or machine.driver_version()
    detail = detail.format(text=failure.text, driver=driver or "of unknown version")
    return Devices((), (), driver, None, source, situation, detail, remedy)


_TEXTS = {
    Situation.DRIVER_MISMATCH: (
        "The NVIDIA driver was updated and the old one is still running: kernel module and libraries do not match.",
        "Reboot: the driver was updated. In a container, restart it, so that it gets the host's new libraries.",
    ),
    Situation.TIMEOUT: (
        "The NVIDIA driver does not answer ({text}).",
        (
            "See whether `nvidia-smi` hangs too: then a reboot helps. If it is only slow, set GPU_DETECTION_TIMEOUT "
            "to more seconds, and keep the driver loaded (sudo nvidia-smi -pm 1)."
        ),
    ),
    Situation.GPU_LOST: (
        "The GPU does not answer any more ({text}).",
        "Reboot. If it happens again, check its power supply, its temperature and its seat; dmesg has an Xid line.",
    ),
    Situation.WSL_NO_GPU: ("Windows gives WSL2 no NVIDIA GPU ({text}).", _WINDOWS_DRIVER),
    Situation.NO_DRIVER: ("NVIDIA's driver is installed, and its kernel module is not loaded.", _LOAD_DRIVER),
    Situation.NO_DEVICES: (
        "The NVIDIA driver {driver} is loaded and finds no GPU that it supports.",
        "See dmesg for a line with NVRM: the GPU may be too old for this driver, or may need its open kernel modules.",
    ),
    Situation.UNKNOWN: (
        "The NVIDIA driver gives no usable answer ({text}).",
        "Run `nvidia-smi`: it must list the GPU before llcuda can use it.",
    ),
}


def _explain_absence(machine: Machine, failure: Failure) -> Devices | None:
    """Return the cause outside the driver, if there is one that explains that it knows no GPU."""
    if machine.is_wsl():
        return _wsl(machine, failure.text)
    if machine.container() and not (machine.gpu_nodes() and _has_libraries(machine)):
        return _container(machine)
    if failure.situation is Situation.UNKNOWN and machine.find_library("libnvidia-ml.so.1"):
        return None
    displays = machine.displays()
    asleep = failure.situation is Situation.NO_DEVICES and _is_asleep(displays)
    if asleep or _was_switched_off(machine, displays):
        return _hybrid_off(machine)
    return _no_driver(machine, "") if failure.situation is Situation.UNKNOWN else None


def _has_libraries(machine: Machine) -> bool:
    return all(machine.find_library(name) for name in ("libnvidia-ml.so.1", "libcuda.so.1"))


def _no_card(machine: Machine, displays: Sequence[Display]) -> Devices:
    vendors = {display.vendor for display in displays}
    if machine.is_wsl():
        return _container(machine) if machine.container() else _wsl(machine, "/dev/dxg is missing")
    if _was_switched_off(machine, displays):
        return _hybrid_off(machine)
    remedy = _NOTEBOOK.get(machine.platform(), "")
    if AMD in vendors:
        return _no_gpu(machine, Situation.AMD, "This machine has an AMD GPU and no NVIDIA GPU.", remedy=remedy)
    if INTEL in vendors:
        return _no_gpu(machine, Situation.INTEL, "This machine has an Intel GPU and no NVIDIA GPU.", remedy=remedy)
    return _no_gpu(machine, Situation.NO_NVIDIA, "This machine has no NVIDIA GPU.", remedy=remedy)


def _no_driver(machine: Machine, taken: str) -> Devices:
    if machine.has_driver():
        detail = "The NVIDIA driver's kernel module is loaded, and its library libnvidia-ml.so.1 is not installed."
        remedy = "Install the driver's libraries of the same version: libnvidia-compute on Ubuntu, libcuda1 on Debian."
    elif taken == "vfio-pci":
        detail = "There is an NVIDIA GPU, and it is set aside for virtual machines (driver vfio-pci)."
        remedy = "Bind it to NVIDIA's driver, or run llcuda in the virtual machine that has the GPU."
    elif taken:
        detail = f"There is an NVIDIA GPU, and the driver {taken} holds it, which has no CUDA."
        remedy = _INSTALL_DRIVER
    else:
        detail = "There is an NVIDIA GPU, and NVIDIA's driver is not loaded."
        remedy = _INSTALL_DRIVER
    host = " This is a container: do it on its host." if remedy == _INSTALL_DRIVER and machine.container() else ""
    return _no_gpu(machine, Situation.NO_DRIVER, detail, remedy=remedy + host)


def _container(machine: Machine) -> Devices:
    nodes = machine.gpu_nodes()
    if machine.is_wsl():
        detail = "This container in WSL2 was started without the GPUs."
    elif not nodes:
        detail = "The host has NVIDIA's driver, and this container was started without the GPUs."
    else:
        detail = f"This container has /dev/{nodes[0]} and not the NVIDIA driver's libraries."
    remedy = _START_WITH_GPUS[machine.container()]
    return _no_gpu(machine, Situation.CONTAINER_WITHOUT_GPUS, detail, remedy=remedy)


def _wsl(machine: Machine, text: str) -> Devices:
    detail, remedy = _TEXTS[Situation.WSL_NO_GPU]
    return _no_gpu(machine, Situation.WSL_NO_GPU, detail.format(text=text), remedy=remedy)


def _permission(machine: Machine, refused: int) -> Devices:
    if machine.container() and refused != errno.EACCES:
        # systemd takes the devices away from running containers when it reloads its units; docker's --gpus does not
        # write them where systemd would see them.
        detail = "The container has lost its right to use the GPU."
        remedy = (
            "Restart the container. To keep it from happening again, pass the device nodes too (--device /dev/nvidia0 "
            "--device /dev/nvidiactl --device /dev/nvidia-uvm)."
        )
    else:
        detail = "This user may not use /dev/nvidia*."
        remedy = "Ask for the group of the device nodes (`ls -l /dev/nvidia*`), or run `sudo chmod a+rw /dev/nvidia*`."
    return _no_gpu(machine, Situation.PERMISSION, detail, remedy=remedy)


def _was_switched_off(machine: Machine, displays: Sequence[Display]) -> bool:
    """Return whether a tool of a laptop with two GPUs says that the NVIDIA GPU is to be off."""
    prime = machine.read("/etc/prime-discrete").strip() in {"off", "intel"}
    bbswitch = machine.read("/proc/acpi/bbswitch").strip().endswith("OFF")
    return (prime or bbswitch) and any(display.vendor in {INTEL, AMD} for display in displays)


def _is_asleep(displays: Sequence[Display]) -> bool:
    """Return whether the NVIDIA GPU has no power while another one draws the screen."""
    cards = [display for display in displays if display.vendor == NVIDIA]
    return bool(cards) and all(card.powered_off for card in cards) and len(displays) > len(cards)


def _hybrid_off(machine: Machine) -> Devices:
    detail = "This laptop's NVIDIA GPU is switched off; another GPU draws the screen."
    return _no_gpu(machine, Situation.HYBRID_OFF, detail, remedy=_SWITCH_ON)
