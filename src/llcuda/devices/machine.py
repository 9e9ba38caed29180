"""The facts of a machine that are cheap to read: files below one root folder, and environment variables.

Nothing here asks the driver, so nothing here can hang. A test gives a folder of its own as the root.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"

_LARGEST_FILE = 1 << 20
_ELF_64 = b"\x7fELF\x02"
_NODE = re.compile(r"nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)$")
# Where drivers are that the loader's cache does not know: WSL2, Colab, GKE and its likes, NixOS, then distributions.
_LIBRARY_FOLDERS = (
    "/usr/lib/wsl/lib", "/usr/lib64-nvidia", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib",
    "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
)  # fmt: skip
_PROGRAM_FOLDERS = ("/usr/bin", "/usr/lib/wsl/lib", "/usr/local/nvidia/bin", "/opt/bin")
_CONTAINER_GROUPS = re.compile(r"docker|kubepods|containerd|libpod|lxc|garden")


@dataclass(frozen=True, slots=True)
class Display:
    """One display controller on the PCI bus."""

    address: str
    vendor: str
    driver: str
    """The kernel driver that holds it, such as ``nvidia`` or ``nouveau``; empty for none."""
    powered_off: bool


class Machine:
    """The machine below ``root``, seen by a process with the variables ``environ``."""

    def __init__(self, root: Path | str = "/", *, environ: Mapping[str, str] | None = None) -> None:
        """Keep both; nothing is read yet."""
        self.root = Path(root)
        self.environ = os.environ if environ is None else environ

    def path(self, name: str) -> Path:
        """Return where the absolute path ``name`` is on this machine."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Return a file's text, or nothing if it cannot be read."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_LARGEST_FILE).decode("utf-8", "replace")
        except OSError:
            return ""

    def exists(self, name: str) -> bool:
        """Return whether there is anything at the path."""
        return os.path.lexists(self.path(name))

    def list_folder(self, name: str) -> list[str]:
        """Return the sorted names in a folder, none if it cannot be read."""
        try:
            return sorted(os.listdir(self.path(name)))  # noqa: PTH208 - names, and no object for each
        except OSError:
            return []

    def nodes(self) -> tuple[str, ...]:
        """Return the driver's device nodes: ``nvidia0``, ``nvidiactl``, ``nvidia-uvm``…, and WSL2's ``dxg``."""
        return tuple(name for name in self.list_folder("/dev") if name == "dxg" or _NODE.match(name))

    def gpu_nodes(self) -> tuple[str, ...]:
        """Return the device nodes of GPUs: ``nvidia0``, ``nvidia1``…."""
        return tuple(name for name in self.nodes() if name.removeprefix("nvidia").isdigit())

    def displays(self) -> tuple[Display, ...]:
        """Return the display controllers on the PCI bus."""
        folder = "/sys/bus/pci/devices"
        found = (f"{folder}/{address}" for address in self.list_folder(folder))
        return tuple(self._read_display(path) for path in found if self.read(f"{path}/class").startswith("0x03"))

    def _read_display(self, path: str) -> Display:
        try:
            driver = os.path.basename(os.readlink(self.path(f"{path}/driver")))  # noqa: PTH115, PTH119 - a name only
        except OSError:
            driver = ""
        powers = {self.read(f"{path}/{name}").strip() for name in ("power_state", "power/runtime_status")}
        return Display(
            address=path.rpartition("/")[2],
            vendor=self.read(f"{path}/vendor").strip(),
            driver=driver,
            powered_off=bool(powers & {"D3cold", "suspended"}),
        )

    def driver_version(self) -> str | None:
        """Return the version of the kernel's NVIDIA driver, None if it is not loaded."""
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)\s", self.read("/proc/driver/nvidia/version"))
        return found[1] if found else self.read("/sys/module/nvidia/version").strip() or None

    def has_driver(self) -> bool:
        """Return whether the kernel of this machine, or of the container's host, has the NVIDIA driver."""
        return self.exists("/proc/driver/nvidia") or self.exists("/sys/module/nvidia")

    def container(self) -> str:
        """Return what kind of container this is, or nothing."""
        if "KUBERNETES_SERVICE_HOST" in self.environ:
            return "kubernetes"
        if self.exists("/.dockerenv"):
            return "docker"
        if self.exists("/run/.containerenv"):
            return "podman"
        inside = self.environ.get("container") or _CONTAINER_GROUPS.search(self.read("/proc/1/cgroup"))
        return "container" if inside else ""

    def is_wsl(self) -> bool:
        """Return whether this is Linux inside Windows."""
        return self.exists("/dev/dxg") or "microsoft" in self.read("/proc/sys/kernel/osrelease").lower()

    def is_jetson(self) -> bool:
        """Return whether this is an NVIDIA Jetson: its GPU is not on a PCI bus and has a driver of its own."""
        return self.exists("/etc/nv_tegra_release") or "tegra" in self.read("/proc/device-tree/compatible")

    def platform(self) -> str:
        """Return where this runs: colab, kaggle, wsl2, jetson, a kind of container, or linux."""
        if any(name in self.environ for name in ("COLAB_RELEASE_TAG", "COLAB_GPU", "COLAB_BACKEND_VERSION")):
            return "colab"
        if any(name in self.environ for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_URL_BASE")):
            return "kaggle"
        if self.is_jetson():
            return "jetson"
        return "wsl2" if self.is_wsl() else self.container() or "linux"

    def find_library(self, name: str) -> Path | None:
        """Return a 64-bit library of this name where a program started from here would find it, or near there."""
        for place in self._library_places(name):
            path = self.path(place)
            try:
                with path.open("rb") as file:
                    if file.read(len(_ELF_64)) == _ELF_64:
                        return path
            except OSError:
                continue
        return None

    def _library_places(self, name: str) -> Iterator[str]:
        for folder in self.environ.get("LD_LIBRARY_PATH", "").split(":"):
            if folder.startswith("/"):
                yield f"{folder}/{name}"
        # The loader's cache ends each name and each path with a zero byte.
        known = self.read("/etc/ld.so.cache").split("\0")
        yield from (entry for entry in known if entry.startswith("/") and entry.endswith(f"/{name}"))
        for folder in _LIBRARY_FOLDERS:
            yield f"{folder}/{name}"

    def find_program(self, name: str) -> Path | None:
        """Return an executable of this name on PATH or where drivers put theirs; never from the current folder."""
        folders = [folder for folder in self.environ.get("PATH", "").split(":") if folder.startswith("/")]
        paths = (self.path(f"{folder}/{name}") for folder in dict.fromkeys((*folders, *_PROGRAM_FOLDERS)))
        return next((path for path in paths if path.is_file() and os.access(path, os.X_OK)), None)

    def open_error(self, name: str) -> int:
        """Return the errno of opening a device node to read and write, 0 if it opens."""
        try:
            os.close(os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            return error.errno or 0
        return 0
