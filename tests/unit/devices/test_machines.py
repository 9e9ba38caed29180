"""Real machines: for each what its nvidia-smi says or what its files show, and what llcuda does with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from llcuda.devices import BackendChoice, Devices, Situation, choose_backend, find_devices, visible_devices
from llcuda.devices.detection import _conclude
from llcuda.devices.diagnosis import explain_failure
from llcuda.devices.inventory import Failure
from llcuda.devices.nvidia_smi import parse_nvidia_smi
from llcuda.errors import DeviceError, DriverTooOldError, NoDeviceError, UnsupportedDeviceError
from llcuda.native import Backend
from tests.standins.fake_machine import LIBCUDA, NVML, build_machine

if TYPE_CHECKING:
    from llcuda.devices.machine import Machine

RELEASE_12 = "sm_50 sm_61 sm_70 sm_75 sm_80 sm_86 sm_89 sm_90 compute_90 sm_120a"
RELEASE_13 = "sm_75 sm_80 sm_86 sm_89 sm_90 compute_90 sm_120a"


def backend(name: str, toolkit: str, architectures: str, *, floor: str, compression: str = "size") -> Backend:
    return Backend(
        name=name,
        library=Path(f"/package/binaries/{name}/libggml-cuda.so"),
        toolkit=toolkit,
        architectures=tuple(architectures.split()),
        driver_floor=floor,
        compression=compression,
        flash_attention=True,
        cuda_graphs=True,
        cublas=f"libcublas.so.{toolkit[:2]}",
    )


BACKENDS = {
    "12": backend("cuda12", "12.9.86", RELEASE_12, floor="550.54.14"),
    "12-uncompressed": backend("cuda12", "12.9.86", RELEASE_12, floor="525.60.13", compression="none"),
    "12-for-3060": backend("cuda12", "12.4.131", "sm_86", floor="525.60.13", compression="none"),
    "13": backend("cuda13", "13.0.88", RELEASE_13, floor="580"),
}


class Row(NamedTuple):
    machine: str
    gpus: str
    """``name|compute capability|MiB`` of each, separated by semicolons; with ``|profile`` for a MIG slice."""
    driver: str
    cuda: str
    bundled: str
    code: str
    sentence: str
    environ: str = ""


CPU = "Using the CPU. "
OLD_12 = "older than 550.54.14, which cuda12 needs for"

# fmt: off
ROWS = (
    # Maxwell and Pascal: CUDA 12 alone has code for them
    Row("laptop with a 940M", "NVIDIA GeForce 940M|5.0|4096", "550.120", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA GeForce 940M (compute capability 5.0)."),
    Row("GTX 970", "NVIDIA GeForce GTX 970|5.2|4096", "580.95.05", "13.0", "12", "ok",
        "Using cuda12 on NVIDIA GeForce GTX 970 (compute capability 5.2)."),
    Row("GTX 1060", "NVIDIA GeForce GTX 1060 6GB|6.1|6144", "550.144.03", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA GeForce GTX 1060 6GB (compute capability 6.1)."),
    Row("GTX 1060, both bundled", "NVIDIA GeForce GTX 1060 6GB|6.1|6144", "580.95.05", "13.0", "13 12", "ok",
        "Using cuda12 on NVIDIA GeForce GTX 1060 6GB (compute capability 6.1)."),
    Row("GTX 1060, only CUDA 13 bundled", "NVIDIA GeForce GTX 1060 6GB|6.1|6144", "580.95.05", "13.0", "13",
        "capability-not-built",
        CPU + "cuda13 was not built for NVIDIA GeForce GTX 1060 6GB (compute capability 6.1)."),
    Row("GTX 1060, driver 470", "NVIDIA GeForce GTX 1060 6GB|6.1|6144", "470.256.02", "11.4", "12", "driver-too-old",
        CPU + f"The NVIDIA driver 470.256.02 is {OLD_12} NVIDIA GeForce GTX 1060 6GB."),
    Row("P100 on Kaggle", "Tesla P100-PCIE-16GB|6.0|16384", "560.35.03", "12.6", "12", "capability-not-built",
        CPU + "cuda12 was not built for Tesla P100-PCIE-16GB (compute capability 6.0)."),
    # older than any toolkit of CUDA 12
    Row("K80", "Tesla K80|3.7|11441", "470.256.02", "11.4", "12", "capability-not-built",
        CPU + "cuda12 was not built for Tesla K80 (compute capability 3.7)."),
    Row("GT 710", "NVIDIA GeForce GT 710|3.5|2048", "470.256.02", "11.4", "13 12", "capability-not-built",
        CPU + "cuda13 and cuda12 were not built for NVIDIA GeForce GT 710 (compute capability 3.5)."),
    Row("GTX 680, a driver that tells no capability", "GeForce GTX 680||2048", "418.226.00", "10.1", "12",
        "capability-not-built",
        CPU + "cuda12 was not built for GeForce GTX 680 (compute capability unknown)."),
    # Volta and Turing
    Row("V100", "Tesla V100-SXM2-16GB|7.0|16384", "570.86.15", "12.8", "13 12", "ok",
        "Using cuda12 on Tesla V100-SXM2-16GB (compute capability 7.0)."),
    Row("Titan V", "NVIDIA TITAN V|7.0|12288", "550.120", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA TITAN V (compute capability 7.0)."),
    Row("T4 on Colab, CUDA 13", "Tesla T4|7.5|15360", "580.82.07", "13.0", "13 12", "ok",
        "Using cuda13 on Tesla T4 (compute capability 7.5)."),
    Row("T4 on Colab, the wheel of CUDA 12", "Tesla T4|7.5|15360", "580.82.07", "13.0", "12", "ok",
        "Using cuda12 on Tesla T4 (compute capability 7.5)."),
    Row("T4, driver 535", "Tesla T4|7.5|15360", "535.183.01", "12.2", "12", "driver-too-old",
        CPU + f"The NVIDIA driver 535.183.01 is {OLD_12} Tesla T4."),
    Row("T4, driver 535, nothing compressed", "Tesla T4|7.5|15360", "535.183.01", "12.2", "12-uncompressed", "ok",
        "Using cuda12 on Tesla T4 (compute capability 7.5)."),
    Row("T4, driver 535, both bundled: the lower floor is named", "Tesla T4|7.5|15360", "535.183.01", "12.2", "13 12",
        "driver-too-old", CPU + f"The NVIDIA driver 535.183.01 is {OLD_12} Tesla T4."),
    Row("two T4 on Kaggle", "Tesla T4|7.5|15360; Tesla T4|7.5|15360", "560.35.03", "12.6", "12", "ok",
        "Using cuda12 on 2 x Tesla T4 (compute capability 7.5)."),
    Row("RTX 2080", "NVIDIA GeForce RTX 2080|7.5|8192", "525.147.05", "12.0", "12", "driver-too-old",
        CPU + f"The NVIDIA driver 525.147.05 is {OLD_12} NVIDIA GeForce RTX 2080."),
    Row("GTX 1650", "NVIDIA GeForce GTX 1650|7.5|4096", "590.44.01", "13.1", "13 12", "ok",
        "Using cuda13 on NVIDIA GeForce GTX 1650 (compute capability 7.5)."),
    # Ampere and Ada
    Row("A100", "NVIDIA A100-SXM4-40GB|8.0|40960", "550.54.15", "12.4", "13 12", "ok",
        "Using cuda12 on NVIDIA A100-SXM4-40GB (compute capability 8.0)."),
    Row("A100 in slices", "NVIDIA A100-SXM4-40GB|8.0|4864|1g.5gb; NVIDIA A100-SXM4-40GB|8.0|19968|3g.20gb",
        "550.54.15", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA A100-SXM4-40GB MIG 1g.5gb (compute capability 8.0). "
        "It is the first of 2 MIG slices: a program can use one."),
    Row("A10G", "NVIDIA A10G|8.6|23028", "570.133.20", "12.8", "12", "ok",
        "Using cuda12 on NVIDIA A10G (compute capability 8.6)."),
    Row("RTX 3060", "NVIDIA GeForce RTX 3060|8.6|12288", "580.65.06", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA GeForce RTX 3060 (compute capability 8.6)."),
    Row("RTX 3060, driver 545", "NVIDIA GeForce RTX 3060|8.6|12288", "545.29.06", "12.3", "12", "driver-too-old",
        CPU + f"The NVIDIA driver 545.29.06 is {OLD_12} NVIDIA GeForce RTX 3060."),
    Row("RTX 3060, nothing bundled", "NVIDIA GeForce RTX 3060|8.6|12288", "580.65.06", "13.0", "", "nothing-bundled",
        CPU + "This installation carries no CUDA backend for NVIDIA GeForce RTX 3060."),
    Row("L4", "NVIDIA L4|8.9|23034", "550.90.07", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA L4 (compute capability 8.9)."),
    Row("4090", "NVIDIA GeForce RTX 4090|8.9|24564", "580.95.05", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA GeForce RTX 4090 (compute capability 8.9)."),
    Row("4090, built from source for a 3060", "NVIDIA GeForce RTX 4090|8.9|24564", "550.120", "12.4", "12-for-3060",
        "ok", "Using cuda12 on NVIDIA GeForce RTX 4090 (compute capability 8.9)."),
    Row("A100, built from source for a 3060", "NVIDIA A100-PCIE-40GB|8.0|40960", "550.120", "12.4", "12-for-3060",
        "capability-not-built",
        CPU + "cuda12 was not built for NVIDIA A100-PCIE-40GB (compute capability 8.0)."),
    Row("4070 in WSL2", "NVIDIA GeForce RTX 4070|8.9|12282", "576.80", "12.9", "12", "ok",
        "Using cuda12 on NVIDIA GeForce RTX 4070 (compute capability 8.9)."),
    # Hopper
    Row("H100", "NVIDIA H100 80GB HBM3|9.0|81559", "580.82.07", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA H100 80GB HBM3 (compute capability 9.0)."),
    Row("H100 PCIe", "NVIDIA H100 PCIe|9.0|81559", "550.127.05", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA H100 PCIe (compute capability 9.0)."),
    Row("H200", "NVIDIA H200|9.0|143771", "570.124.06", "12.8", "13 12", "ok",
        "Using cuda12 on NVIDIA H200 (compute capability 9.0)."),
    Row("H200 slice", "NVIDIA H200|9.0|16384|1g.18gb", "580.82.07", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA H200 MIG 1g.18gb (compute capability 9.0)."),
    Row("eight H100", "; ".join(["NVIDIA H100 80GB HBM3|9.0|81559"] * 8), "580.82.07", "13.0", "13 12", "ok",
        "Using cuda13 on 8 x NVIDIA H100 80GB HBM3 (compute capability 9.0)."),
    Row("GH200", "NVIDIA GH200 480GB|9.0|97871", "580.82.07", "13.0", "13", "ok",
        "Using cuda13 on NVIDIA GH200 480GB (compute capability 9.0)."),
    # Blackwell
    Row("B200", "NVIDIA B200|10.0|183359", "580.95.05", "13.0", "12", "ok",
        "Using cuda12 on NVIDIA B200 (compute capability 10.0). It has no machine code for NVIDIA B200: "
        "the driver compiles compute_90, which takes minutes at the first start."),
    Row("B200, a driver older than the toolkit", "NVIDIA B200|10.0|183359", "570.124.06", "12.8", "12",
        "driver-too-old",
        CPU + "The NVIDIA driver 570.124.06 is older than 575, which cuda12 needs for NVIDIA B200."),
    Row("B200, and CUDA's compatibility package", "NVIDIA B200|10.0|183359", "570.124.06", "13.0", "12",
        "driver-too-old",
        CPU + "The NVIDIA driver 570.124.06 is older than 575, which cuda12 needs for NVIDIA B200."),
    Row("B300", "NVIDIA B300 SXM6 AC|10.3|275040", "580.95.05", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA B300 SXM6 AC (compute capability 10.3). It has no machine code for "
        "NVIDIA B300 SXM6 AC: the driver compiles compute_90, which takes minutes at the first start."),
    Row("5090", "NVIDIA GeForce RTX 5090|12.0|32607", "575.57.08", "12.9", "13 12", "ok",
        "Using cuda12 on NVIDIA GeForce RTX 5090 (compute capability 12.0)."),
    Row("5060 Ti", "NVIDIA GeForce RTX 5060 Ti|12.0|16311", "580.95.05", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA GeForce RTX 5060 Ti (compute capability 12.0)."),
    Row("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition|12.0|97887", "610.43.02", "13.3", "13", "ok",
        "Using cuda13 on NVIDIA RTX PRO 6000 Blackwell Workstation Edition (compute capability 12.0)."),
    Row("DGX Spark", "NVIDIA GB10|12.1|[N/A]", "580.95.05", "13.0", "13", "ok",
        "Using cuda13 on NVIDIA GB10 (compute capability 12.1). It has no machine code for NVIDIA GB10: "
        "the driver compiles compute_90, which takes minutes at the first start."),
    # mixed
    Row("1060 and 3090", "NVIDIA GeForce GTX 1060 6GB|6.1|6144; NVIDIA GeForce RTX 3090|8.6|24576",
        "580.95.05", "13.0", "13 12", "ok",
        "Using cuda12 on NVIDIA GeForce GTX 1060 6GB (compute capability 6.1) and NVIDIA GeForce RTX 3090 "
        "(compute capability 8.6)."),
    Row("1060 and 3090, only CUDA 13", "NVIDIA GeForce GTX 1060 6GB|6.1|6144; NVIDIA GeForce RTX 3090|8.6|24576",
        "580.95.05", "13.0", "13", "ok",
        "Using cuda13 on NVIDIA GeForce RTX 3090 (compute capability 8.6). "
        "Left out: NVIDIA GeForce GTX 1060 6GB (compute capability 6.1), which it was not built for."),
    Row("K80 and T4: no driver is right for both", "Tesla K80|3.7|11441; Tesla K80|3.7|11441; Tesla T4|7.5|15360",
        "470.256.02", "11.4", "12", "driver-too-old", CPU + f"The NVIDIA driver 470.256.02 is {OLD_12} Tesla T4."),
    Row("two P100 and a T4", "Tesla P100-PCIE-16GB|6.0|16384; Tesla P100-PCIE-16GB|6.0|16384; Tesla T4|7.5|15360",
        "550.54.15", "12.4", "12", "ok",
        "Using cuda12 on Tesla T4 (compute capability 7.5). Left out: 2 x Tesla P100-PCIE-16GB "
        "(compute capability 6.0), which it was not built for."),
    Row("B200 and H100, a driver older than the toolkit", "NVIDIA B200|10.0|183359; NVIDIA H100 PCIe|9.0|81559",
        "570.124.06", "12.8", "12", "ok",
        "Using cuda12 on NVIDIA H100 PCIe (compute capability 9.0). "
        "Left out: NVIDIA B200 (compute capability 10.0), which needs driver 575."),
    Row("a whole A100 beside one in slices", "NVIDIA A100-SXM4-40GB|8.0|40960; NVIDIA A100-SXM4-40GB|8.0|4864|1g.5gb",
        "550.54.15", "12.4", "12", "ok",
        "Using cuda12 on NVIDIA A100-SXM4-40GB (compute capability 8.0). Left out: 1 MIG slice."),
    # chosen by the user
    Row("two GPUs, one hidden", "NVIDIA GeForce GTX 1060 6GB|6.1|6144; NVIDIA GeForce RTX 3090|8.6|24576",
        "580.95.05", "13.0", "13 12", "ok",
        "Using cuda13 on NVIDIA GeForce RTX 3090 (compute capability 8.6).", "GPU-00000001"),
    Row("hidden with nothing", "NVIDIA GeForce RTX 3090|8.6|24576", "580.95.05", "13.0", "12", "hidden",
        CPU + 'CUDA_VISIBLE_DEVICES="" hides every GPU.', " "),
    Row("hidden with -1", "NVIDIA GeForce RTX 3090|8.6|24576", "580.95.05", "13.0", "12", "hidden",
        CPU + 'CUDA_VISIBLE_DEVICES="-1" hides every GPU.', "-1"),
    Row("hidden with a number too high", "NVIDIA GeForce RTX 3090|8.6|24576", "580.95.05", "13.0", "12", "hidden",
        CPU + "CUDA_VISIBLE_DEVICES=1 ends at 1, which is none of the 1 GPU here.", "1"),
)
# fmt: on


def devices_of(row: Row, root: Path) -> Devices:
    """Read the row as nvidia-smi would print it."""
    query, table, listing = [], [], []
    for index, gpu in enumerate(row.gpus.split("; ")):
        name, capability, memory, *profile = gpu.split("|")
        uuid = f"GPU-{index:08d}"
        parent = 0 if profile and index else index
        query.append(f"{index}, {name}, {uuid}, {capability}, {memory}, {memory}, {row.driver}")
        listing.append(f"GPU {index}: {name} (UUID: {uuid})")
        if profile:
            table.append(f"|  {index}    1   0   0  |     0MiB / {memory}MiB | 14      0 |")
            listing.append(f"  MIG {profile[0]}     Device  0: (UUID: MIG-{parent}{index:07d})")
    header = "\n".join([f"| Driver Version: {row.driver}  CUDA Version: {row.cuda} |", *table])
    found = parse_nvidia_smi("\n".join([*query, ""]), header=header, listing="\n".join(listing))
    environ = {"CUDA_VISIBLE_DEVICES": row.environ.strip()} if row.environ else {}
    return _conclude(build_machine(root, environ=environ), found, "nvidia-smi")


def choose(row: Row, root: Path) -> BackendChoice:
    return choose_backend(devices_of(row, root), [BACKENDS[name] for name in row.bundled.split()])


def name_of(row: Row | Bare) -> str:
    return row.machine


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_machine_with_gpus_gets_the_backend_that_fits(row: Row, tmp_path: Path) -> None:
    choice = choose(row, tmp_path)
    assert (choice.code, choice.sentence) == (row.code, row.sentence)
    assert (choice.backend is not None) == (row.code == "ok") == bool(choice.gpus)
    assert choice.backend is None or f"Using {choice.backend.name} " in choice.sentence


@pytest.mark.parametrize("row", [row for row in ROWS if row.code != "ok"], ids=name_of)
def test_a_gpu_that_cannot_be_used_is_an_error_with_a_remedy(row: Row, tmp_path: Path) -> None:
    choice = choose(row, tmp_path)
    assert visible_devices(choice) == "-1"
    with pytest.raises(DeviceError) as caught:
        choice.raise_for_device()
    assert caught.value.hint
    assert type(caught.value) is {
        "driver-too-old": DriverTooOldError,
        "capability-not-built": UnsupportedDeviceError,
    }.get(row.code, NoDeviceError)


class Bare(NamedTuple):
    machine: str
    cards: str
    nodes: str
    code: str
    sentence: str
    remedy: str
    """A part of it."""
    driver: str = ""
    libraries: str = ""
    files: tuple[tuple[str, str], ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    answer: Failure | None = None
    """What NVML or nvidia-smi says, where they are asked."""


DOCKER = (("/.dockerenv", ""),)
PODMAN = (("/run/.containerenv", ""),)
SLURM_CONTAINER = (("/proc/1/cgroup", "0::/system.slice/containerd.service/pod1\n"),)
WSL = (("/proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n"),)
NODES = "nvidia0 nvidiactl nvidia-uvm"
LIBRARIES = f"{NVML} {LIBCUDA}"
NOT_LOADED = Failure(Situation.NO_DRIVER, "NVML error 9: Driver Not Loaded")
NONE_FOUND = Failure(Situation.NO_DEVICES, "No devices were found")
MISMATCH = Failure(Situation.DRIVER_MISMATCH, "Failed to initialize NVML: Driver/library version mismatch")
NO_LIBRARY = Failure(Situation.UNKNOWN, "libnvidia-ml.so.1 was not found")
MISMATCHED = "The NVIDIA driver was updated and the old one is still running: kernel module and libraries do not match."
SWITCHED_OFF = "This laptop's NVIDIA GPU is switched off; another GPU draws the screen."
WITHOUT_GPUS = "The host has NVIDIA's driver, and this container was started without the GPUs."

# fmt: off
BARE = (
    Bare("virtual machine without a GPU", "virtio", "", "no-nvidia", "This machine has no NVIDIA GPU.", ""),
    Bare("RX 7900", "amd/amdgpu", "", "amd", "This machine has an AMD GPU and no NVIDIA GPU.", ""),
    Bare("Arc A770", "intel/i915", "", "intel", "This machine has an Intel GPU and no NVIDIA GPU.", ""),
    Bare("Jetson Orin", "", "nvidia0 nvidiactl", "jetson",
         "This is an NVIDIA Jetson, which llcuda's CUDA backends do not support.", "",
         files=(("/etc/nv_tegra_release", "# R36 (release), REVISION: 4.0\n"),)),
    Bare("Jetson Thor", "nvidia/nvidia", "nvidia0 nvidiactl", "jetson",
         "This is an NVIDIA Jetson, which llcuda's CUDA backends do not support.", "",
         files=(("/proc/device-tree/compatible", "nvidia,p3971-0080\0nvidia,tegra264\0"),)),
    Bare("Colab without an accelerator", "", "", "no-nvidia", "This machine has no NVIDIA GPU.", "runtime type",
         files=DOCKER, environ=(("COLAB_RELEASE_TAG", "release-colab_20261101"),)),
    Bare("Kaggle without an accelerator", "", "", "no-nvidia", "This machine has no NVIDIA GPU.", "Accelerator",
         files=DOCKER, environ=(("KAGGLE_KERNEL_RUN_TYPE", "Interactive"),)),
    Bare("nouveau", "nvidia/nouveau", "", "no-driver",
         "There is an NVIDIA GPU, and the driver nouveau holds it, which has no CUDA.", "Install NVIDIA's driver"),
    Bare("fresh server", "nvidia", "", "no-driver", "There is an NVIDIA GPU, and NVIDIA's driver is not loaded.",
         "Install NVIDIA's driver"),
    Bare("container on a host without a driver", "nvidia", "", "no-driver",
         "There is an NVIDIA GPU, and NVIDIA's driver is not loaded.", "on its host", files=DOCKER),
    Bare("GPU handed to virtual machines", "nvidia/vfio-pci amd/amdgpu", "", "no-driver",
         "There is an NVIDIA GPU, and it is set aside for virtual machines (driver vfio-pci).", "Bind it"),
    Bare("kernel update without the module", "nvidia", "", "no-driver",
         "NVIDIA's driver is installed, and its kernel module is not loaded.", "modprobe",
         libraries=LIBRARIES, answer=NOT_LOADED),
    Bare("driver without its libraries", "nvidia/nvidia", "", "no-driver",
         "The NVIDIA driver's kernel module is loaded, and its library libnvidia-ml.so.1 is not installed.",
         "same version", driver="550.120"),
    Bare("driver updated, not rebooted", "nvidia/nvidia", NODES, "driver-mismatch", MISMATCHED, "Reboot",
         driver="550.120", libraries=LIBRARIES, answer=MISMATCH),
    Bare("docker without --gpus", "nvidia/nvidia", "", "container-without-gpus", WITHOUT_GPUS, "--gpus all",
         driver="580.95.05", files=DOCKER),
    Bare("podman without --device", "nvidia/nvidia", "", "container-without-gpus", WITHOUT_GPUS, "nvidia.com/gpu=all",
         driver="580.95.05", files=PODMAN),
    Bare("pod without a GPU request", "nvidia/nvidia", "", "container-without-gpus", WITHOUT_GPUS, "resources.limits",
         driver="580.95.05", environ=(("KUBERNETES_SERVICE_HOST", "10.0.0.1"),)),
    Bare("containerd", "nvidia/nvidia", "", "container-without-gpus", WITHOUT_GPUS, "Give the container",
         driver="580.95.05", files=SLURM_CONTAINER),
    Bare("docker with the nodes and no libraries", "nvidia/nvidia", NODES, "container-without-gpus",
         "This container has /dev/nvidia0 and not the NVIDIA driver's libraries.", "--gpus all",
         driver="580.95.05", files=DOCKER, answer=NO_LIBRARY),
    Bare("docker with nvidiactl alone", "nvidia/nvidia", "nvidiactl", "container-without-gpus", WITHOUT_GPUS,
         "--gpus all", driver="580.95.05", files=DOCKER, libraries=LIBRARIES, answer=NONE_FOUND),
    Bare("hybrid laptop, prime-select intel", "intel/i915 nvidia", "", "hybrid-off", SWITCHED_OFF, "prime-select",
         files=(("/etc/prime-discrete", "off\n"),)),
    Bare("hybrid laptop, the card gone from the bus", "intel/i915", "", "hybrid-off", SWITCHED_OFF, "prime-select",
         files=(("/etc/prime-discrete", "off\n"),)),
    Bare("hybrid laptop in D3cold", "amd/amdgpu nvidia/nvidia/D3cold", "nvidiactl", "hybrid-off", SWITCHED_OFF,
         "prime-select", driver="550.120", libraries=LIBRARIES, answer=NONE_FOUND),
    Bare("hybrid laptop in D3cold, the module not built", "amd/amdgpu nvidia/-/D3cold", "", "no-driver",
         "NVIDIA's driver is installed, and its kernel module is not loaded.", "modprobe",
         libraries=LIBRARIES, answer=NOT_LOADED),
    Bare("hybrid laptop in D3cold, no driver installed", "amd/amdgpu nvidia/-/D3cold", "", "no-driver",
         "There is an NVIDIA GPU, and NVIDIA's driver is not loaded.", "Install NVIDIA's driver"),
    Bare("hybrid laptop with nouveau asleep", "intel/i915 nvidia/nouveau/D3cold", "", "no-driver",
         "There is an NVIDIA GPU, and the driver nouveau holds it, which has no CUDA.", "Install NVIDIA's driver"),
    Bare("hybrid laptop, bbswitch", "intel/i915 nvidia", "nvidiactl", "hybrid-off", SWITCHED_OFF, "prime-select",
         libraries=LIBRARIES, files=(("/proc/acpi/bbswitch", "0000:01:00.0 OFF\n"),), answer=NONE_FOUND),
    Bare("laptop of one GPU, asleep", "nvidia/nvidia/D3cold", "nvidiactl", "no-devices",
         "The NVIDIA driver 550.120 is loaded and finds no GPU that it supports.", "NVRM",
         driver="550.120", libraries=LIBRARIES, answer=NONE_FOUND),
    Bare("hybrid laptop, switched off, and nouveau all the same", "intel/i915 nvidia/nouveau", "", "no-driver",
         "There is an NVIDIA GPU, and the driver nouveau holds it, which has no CUDA.", "Install NVIDIA's driver",
         files=(("/etc/prime-discrete", "off\n"),)),
    Bare("card too old for the driver", "nvidia/nvidia", "nvidiactl", "no-devices",
         "The NVIDIA driver 580.95.05 is loaded and finds no GPU that it supports.", "NVRM",
         driver="580.95.05", libraries=LIBRARIES, answer=NONE_FOUND),
    Bare("no right to the device nodes", "nvidia/nvidia", NODES, "permission-denied",
         "This user may not use /dev/nvidia*.", "ls -l /dev/nvidia*", driver="550.120", libraries=LIBRARIES,
         answer=Failure(Situation.PERMISSION, "NVML error 4: Insufficient Permissions")),
    Bare("container after systemctl daemon-reload", "nvidia/nvidia", NODES, "permission-denied",
         "The container has lost its right to use the GPU.", "Restart the container",
         driver="550.120", libraries=LIBRARIES, files=DOCKER,
         answer=Failure(Situation.PERMISSION, "NVML error 4: Insufficient Permissions")),
    Bare("fallen off the bus", "nvidia/nvidia", NODES, "gpu-lost",
         "The GPU does not answer any more (NVML error 15: GPU is lost).", "Reboot",
         driver="550.120", libraries=LIBRARIES, answer=Failure(Situation.GPU_LOST, "NVML error 15: GPU is lost")),
    Bare("hanging driver", "nvidia/nvidia", NODES, "timeout",
         "The NVIDIA driver does not answer (NVML gave no answer within 5 seconds).", "GPU_DETECTION_TIMEOUT",
         driver="550.120", libraries=LIBRARIES,
         answer=Failure(Situation.TIMEOUT, "NVML gave no answer within 5 seconds")),
    Bare("WSL2 without a GPU", "", "", "wsl-no-gpu", "Windows gives WSL2 no NVIDIA GPU (/dev/dxg is missing).",
         "driver in Windows", files=WSL),
    Bare("container in WSL2 without --gpus", "", "", "container-without-gpus",
         "This container in WSL2 was started without the GPUs.", "--gpus all", files=DOCKER + WSL),
    Bare("WSL2 on an AMD machine", "", "dxg", "wsl-no-gpu",
         "Windows gives WSL2 no NVIDIA GPU (libnvidia-ml.so.1 was not found).", "driver in Windows",
         files=WSL, answer=NO_LIBRARY),
    Bare("WSL2, access blocked", "", "dxg", "wsl-no-gpu",
         "Windows gives WSL2 no NVIDIA GPU (NVML error 17: GPU access blocked by the operating system).",
         "wsl --update", files=WSL, libraries="/usr/lib/wsl/lib/libnvidia-ml.so.1",
         answer=Failure(Situation.WSL_NO_GPU, "NVML error 17: GPU access blocked by the operating system")),
    Bare("a driver that makes no sense", "nvidia/nvidia", NODES, "unknown",
         "The NVIDIA driver gives no usable answer (NVML error 999: Unknown Error).", "nvidia-smi",
         driver="550.120", libraries=LIBRARIES, answer=Failure(Situation.UNKNOWN, "NVML error 999: Unknown Error")),
)
# fmt: on


def build(row: Bare, root: Path) -> Machine:
    files, environ = dict(row.files), dict(row.environ)
    return build_machine(
        root, cards=row.cards, nodes=row.nodes, driver=row.driver, libraries=row.libraries, files=files, environ=environ
    )


@pytest.mark.parametrize("row", BARE, ids=name_of)
def test_a_machine_without_a_usable_gpu_is_named_with_what_to_do(row: Bare, tmp_path: Path) -> None:
    machine = build(row, tmp_path)
    devices = explain_failure(machine, row.answer, source="nvml") if row.answer else find_devices(machine=machine)
    assert (devices.situation.value, devices.detail) == (row.code, row.sentence)
    assert row.remedy in devices.remedy
    assert devices.driver == (row.driver or None)
    choice = choose_backend(devices, [BACKENDS["12"]])
    assert (choice.code, choice.sentence) == (row.code, f"Using the CPU. {row.sentence}")
    error = choice.error()
    assert type(error) is NoDeviceError
    assert str(error) == row.sentence
    assert error.hint == (devices.remedy or 'Use device="cpu", or device="auto" to take a GPU if there is one.')


def test_every_situation_is_on_some_machine() -> None:
    seen = {row.code for row in (*ROWS, *BARE)}
    assert {situation.value for situation in Situation} - seen == {"no-libcuda", "mig-empty"}


def test_there_are_more_than_forty_machines() -> None:
    assert len({row.machine for row in (*ROWS, *BARE)}) == len(ROWS) + len(BARE) > 40
