"""Install a bundle of binaries, prove it on this machine, and go back to what was before.

The states of a bundle: a *download*, which is resumed; *unpacked* in a folder of a temporary name, verified and on the
disk, used by the proof alone; *in place*, after one rename; *in use*, when the record names it. A process that dies
anywhere on that way leaves the record as it was, and what it left is removed by the next one that installs. One process
at a time changes anything here; what runs already keeps the files that it has open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import fcntl
import json
import logging
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from llcuda import settings
from llcuda.devices import choose_backend, find_devices
from llcuda.errors import InstallError, LlcudaError, UsageError
from llcuda.installer.bundles import choose_bundle
from llcuda.installer.proof import prove
from llcuda.installer.sources import open_source
from llcuda.installer.unpack import unpack_bundle
from llcuda.native import (
    INSTALL_AGAIN,
    RECORD,
    InstalledBundle,
    binaries_dir,
    check_binaries,
    find_nccl,
    installed_dir,
    read_build_info,
    read_record,
)
from llcuda.store import place_file
from llcuda.store.atomic_files import DISK_FULL, sync_folder
from llcuda.store.download import RESERVE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from llcuda.devices import BackendChoice
    from llcuda.installer.bundles import Bundle
    from llcuda.installer.proof import Proof
    from llcuda.installer.sources import BundleSource
    from llcuda.native import BuildInfo, Problem

Times = tuple[tuple[InstalledBundle, ...], ...]
"""The bundles in use now, then those that were in use before, the last first."""

_KEPT = 2
"""How many times before now can be gone back to: a CUDA backend takes up to 200 MB."""
_TEMPORARY = ".install-"
_MORE_SPACE = "Free some space, or set LLCUDA_HOME to a larger disk."


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What would be installed on this machine, and from where."""

    bundle: Bundle
    source: BundleSource
    choice: BackendChoice | None
    """The backend and the GPUs that it is for; None for the executables."""

    def __str__(self) -> str:
        """Return it in one sentence for people."""
        what = f"the CUDA backend {self.bundle.profile}" if self.choice else "llama.cpp's executables"
        gpus = f" for {', '.join(gpu.name for gpu in self.choice.gpus)}" if self.choice else ""
        size = f"{self.bundle.bytes / 1e6:.1f} MB, {self.bundle.unpacked_bytes / 1e6:.1f} MB unpacked"
        return f"{what}{gpus} ({size}) from {self.source.label}"


class BinaryInstaller:
    """Add a CUDA backend to this installation, or executables to one that has none; verify it; go back.

    What is installed is for this user and this version of llcuda, and is used by every engine that is made after that.
    """

    def __init__(
        self,
        cache_dir: str | PathLike[str] | None = None,
        *,
        source: str | None = None,
        progress: bool = True,
        on_step: Callable[[str, int, int | None], object] | None = None,
    ) -> None:
        """Install into ``cache_dir`` instead of LLCUDA_HOME; engines find it there if LLCUDA_HOME says the same.

        ``source`` is the hub's dataset of releases if it is None, or an address, a folder, or a file; see
        :func:`llcuda.installer.open_source`. ``progress`` shows a bar for a download. ``on_step`` is told, again and
        again, which of ``download``, ``unpack``, ``prove`` and ``activate`` goes on, how many bytes of it are done, and
        of how many (None if it is not about bytes).
        """
        self._home = Path(cache_dir).expanduser().absolute() if cache_dir else settings.home_dir().absolute()
        self._source = source
        self._progress = progress
        self._on_step = on_step
        self.folder = installed_dir(self._home)
        """Where everything is kept."""

    def list_installed(self) -> tuple[InstalledBundle, ...]:
        """Return the bundles that are in use. Raises BinaryUnusableError if the record of them is damaged."""
        return read_record(self.folder)[0]

    def is_installed(self) -> bool:
        """Return whether something is installed, and every file of it is there."""
        installed = self.list_installed()
        return bool(installed) and not any(check_binaries(bundle.folder) for bundle in installed)

    def get_binary_paths(self) -> dict[str, Path | None]:
        """Return the folder of the executables, that of the backend in use, and NCCL, each None if there is none.

        The keys are ``llama_bin``, ``llama_lib`` and ``nccl_lib``.
        """
        installed = self.list_installed()
        executables = next((bundle.folder for bundle in installed if not bundle.is_backend), binaries_dir())
        backend = next((bundle.folder for bundle in installed if bundle.is_backend), executables)
        return {
            "llama_bin": executables if executables.is_dir() else None,
            "llama_lib": backend if backend.is_dir() else None,
            "nccl_lib": find_nccl(),
        }

    def plan(self, profile: str | None = None) -> Plan:
        """Return what would be installed here; nothing is downloaded but the source's index.

        ``profile`` asks for one bundle: ``cuda12``, ``cuda13``, ``all``. Raises the DeviceError that says why no
        backend can be used here, UsageError or InstallError if the source has nothing for this installation, and
        DownloadError if it cannot be reached.
        """
        devices, tag = find_devices(refresh=True), _get_tag()
        if tag and not (profile or self._source or devices.gpus):
            nothing = choose_backend(devices, (), device="cuda")  # the releases have nothing for such a machine
            error = nothing.error()
            error.hint = nothing.remedy or "Nothing is to be installed: models run on the CPU here."
            raise error
        source = open_source(self._source, downloads=self._home / "binaries" / "downloads")
        bundles = source.list_bundles()
        if profile is None and len(bundles) == 1:
            profile = bundles[0].profile  # the one that was named, or the only one there is
        bundle, choice = choose_bundle(bundles, devices, tag=tag, profile=profile)
        return Plan(bundle, source, choice)

    def download_binary(self, force: bool = False, *, profile: str | None = None) -> InstalledBundle:  # noqa: FBT001, FBT002 - the contract's signature
        """Install what :meth:`plan` names, prove it, and return it; ``force`` installs again what is there already.

        Raises what :meth:`plan` and :meth:`install` raise.
        """
        return self.install(self.plan(profile), force=force)

    def install(self, plan: Plan, *, force: bool = False) -> InstalledBundle:
        """Download, verify, unpack and prove the plan's bundle, and put it into use.

        Until then, and after every error, what was in use before still is. Raises InstallError for a bundle that is
        not one of ours, does not work here or has no room, and what a download raises: DownloadError,
        ChecksumMismatchError, and ModelError on a full disk.
        """
        with self._changing() as times:
            present = next((one for one in times[0] if one.sha256 == plan.bundle.sha256), None)
            if present and not force and not check_binaries(present.folder, digests=True):
                return present
            with self._unpacked(plan) as folder:
                self._tell("prove")
                proof = prove(folder, choice=plan.choice, owner=binaries_dir(), source=plan.bundle.name)
                self._tell("activate")
                installed = self._describe(plan, proof)
                folder.rename(installed.folder)
                sync_folder(self.folder)
            write_record(self.folder, activate(times, installed))
            return installed

    def verify(self) -> tuple[Problem, ...]:
        """Read every file in use, compare it with its digest, and return what is wrong.

        Raises BinaryUnusableError if the record is damaged.
        """
        found = (check_binaries(bundle.folder, digests=True) for bundle in self.list_installed())
        return tuple(dataclasses.replace(one, remedy=INSTALL_AGAIN) for problems in found for one in problems)

    def rollback(self) -> tuple[InstalledBundle, ...]:
        """Go back to what was in use before the last install, and return it: empty for the package's own binaries.

        Raises UsageError if nothing is installed and nothing was before.
        """
        with self._changing() as times:
            if not any(times):
                raise UsageError("there is nothing to go back to: nothing is installed", hint="llcuda gpu status")
            write_record(self.folder, go_back(times))
        return self.list_installed()

    def remove(self, profile: str) -> None:
        """Take the bundle of ``profile`` out of use and off the disk, with those of that profile from before.

        Raises UsageError if there is none.
        """
        with self._changing() as times:
            names = [bundle.profile for bundle in times[0]]
            if profile not in names:
                raise UsageError(f"{profile} is not installed", hint=f"Installed: {', '.join(names) or 'nothing'}.")
            write_record(self.folder, deactivate(times, profile))

    def _describe(self, plan: Plan, proof: Proof) -> InstalledBundle:
        # No folder ever takes another's place: until the record names the new one, the old one is what is used.
        name = f"{plan.bundle.folder_name}.{secrets.token_hex(4)}"
        return InstalledBundle(
            name=name,
            profile=plan.bundle.profile,
            sha256=plan.bundle.sha256,
            source=plan.source.label,
            date=dt.datetime.now(tz=dt.timezone.utc).isoformat(timespec="seconds"),
            folder=self.folder / name,
            proof=proof.to_dict(),
        )

    @contextlib.contextmanager
    def _unpacked(self, plan: Plan) -> Iterator[Path]:
        """Yield a folder with the bundle's files, which is removed unless it was moved away."""
        bundle, size = plan.bundle, plan.bundle.unpacked_bytes
        on_bytes = self._counter("download", bundle.bytes)
        with plan.source.open_bundle(bundle, progress=self._progress, on_bytes=on_bytes) as archive:
            _require_space(self.folder, bundle)
            folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.folder))
            try:
                info = unpack_bundle(
                    archive, folder, source=bundle.name, max_bytes=size, on_bytes=self._counter("unpack", size)
                )
                _require_announced(info, bundle)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _tell(self, step: str, done: int = 0, total: int | None = None) -> None:
        if self._on_step is not None:
            self._on_step(step, done, total)

    def _counter(self, step: str, total: int) -> Callable[[int], None]:
        return lambda done: self._tell(step, done, total)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Times]:
        """Keep every other process from changing anything, yield the record, and remove what nothing needs any more."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("wb") as lock:
                _wait_for(lock)
                self._remove_unused()
                yield read_record(self.folder)
                self._remove_unused()
        except OSError as error:
            if isinstance(error, LlcudaError):
                raise
            raise _explain_disk(error, self.folder) from error

    def _remove_unused(self) -> None:
        used = names_in_use(read_record(self.folder))
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in used:
                shutil.rmtree(path, ignore_errors=True)


def _get_tag() -> str | None:
    """Return the llama.cpp build of the executables that are there, None if there are none."""
    return read_build_info(binaries_dir()).llama_cpp_tag if binaries_dir().is_dir() else None


def _require_space(folder: Path, bundle: Bundle) -> None:
    free = shutil.disk_usage(folder).free
    if bundle.unpacked_bytes + RESERVE_BYTES > free:
        raise InstallError(
            bundle.name, f"{bundle.unpacked_bytes} bytes are needed and {free} are free in {folder}", hint=_MORE_SPACE
        )


def _require_announced(info: BuildInfo, bundle: Bundle) -> None:
    """Refuse a bundle whose own record says something else than what it was chosen for."""
    said = info.llama_cpp_tag, info.profile, info.toolkit, info.architectures
    if said != (bundle.llama_cpp_tag, bundle.profile, bundle.toolkit, bundle.architectures):
        raise InstallError(bundle.name, "its record and the index describe different binaries")


def _wait_for(lock: IO[bytes]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.getLogger("llcuda").warning("Another process is installing; waiting until it is done.")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _explain_disk(error: OSError, folder: Path) -> InstallError:
    hint = _MORE_SPACE if error.errno in DISK_FULL else "Set LLCUDA_HOME to a folder that can be written."
    return InstallError("the bundle", f"{folder} cannot be written: {error.strerror or error}", hint=hint)


def activate(times: Times, bundle: InstalledBundle) -> Times:
    """Return the record with ``bundle`` in use, in place of the one of its profile.

    The same bytes installed again are no change to go back from.
    """
    others = tuple(one for one in times[0] if one.profile != bundle.profile)
    again = any(one.sha256 == bundle.sha256 for one in times[0])
    return (*others, bundle), *(times[1:] if again else times[:_KEPT])


def deactivate(times: Times, profile: str) -> Times:
    """Return the record without the bundle of ``profile``, in use now or before."""
    return tuple(tuple(one for one in bundles if one.profile != profile) for bundles in times)


def go_back(times: Times) -> Times:
    """Return the record as it was before the last change."""
    return times[1:] or ((),)


def names_in_use(times: Times) -> frozenset[str]:
    """Return the names of the folders that the record needs."""
    return frozenset(one.name for bundles in times for one in bundles)


def write_record(folder: Path, times: Times) -> None:
    """Put the record in place of the one before, at once and on the disk. Raises ModelError on a full disk."""
    active, *before = [
        [{key: value for key, value in dataclasses.asdict(one).items() if key != "folder"} for one in bundles]
        for bundles in times
    ]
    text = json.dumps({"schema": 1, "active": active, "before": before}, indent=2)
    with place_file(folder / RECORD) as file:
        file.write(text.encode())
