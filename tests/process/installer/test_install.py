"""Installing for real: bundles of the real executables and of the stand-in GPU, proved by the real llama-server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import llcuda
from llcuda import settings
from llcuda.engine import placement as placements
from llcuda.errors import ChecksumMismatchError, DownloadError, InstallError, NoDeviceError, UsageError
from llcuda.installer import HUB_SOURCE, BinaryInstaller, install
from llcuda.native import binaries_dir, find_backends, read_build_info, read_installed
from tests.inputs.bundles import LIBRARY, Draft, write_bundle
from tests.processes import wait_until
from tests.standins.fake_t4 import T4, devices
from tests.standins.hub_server import Hub, serve
from tools.binaries.bundle import pack

if TYPE_CHECKING:
    from collections.abc import Iterator



@pytest.fixture(scope="module")
def cpu_bundle(tmp_path_factory: pytest.TempPathFactory, binaries: Path) -> Path:
    """The bundle that ``pack`` makes of the executables in use."""
    return pack(binaries, output=tmp_path_factory.mktemp("packed"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LLCUDA_OFFLINE", "HF_HUB_OFFLINE", "LOCAL_LLAMA_INFERENCE_NO_AUTO_INSTALL", "AUTO_UPGRADE_GPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a T4 into this machine, with the memory of the stand-in backend."""
    for module in (install, placements):
        monkeypatch.setattr(module, "find_devices", lambda **_: devices(T4))
    monkeypatch.setenv("GGML_FAKE_GPU", "4096")


def draft_of(compiled: Path, name: str = "fake", *, binaries: Path) -> Draft:
    tag = read_build_info(binaries).llama_cpp_tag
    library = compiled / name / LIBRARY
    build = {"llama_cpp": {"tag": tag, "version": "0.6.0", "commit": tag}}
    return Draft(files={LIBRARY: library.read_bytes()}, record=build)


@pytest.fixture
def gpu_bundle(tmp_path: Path, compiled: Path, binaries: Path) -> Path:
    return write_bundle(tmp_path / "gpu-bundle", draft_of(compiled, binaries=binaries))


def load_report() -> llcuda.DeviceReport:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", silent=True)
        assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
        assert engine.device_report is not None
        return engine.device_report


def folders_of(installer: BinaryInstaller) -> set[str]:
    return {path.name for path in installer.folder.iterdir() if path.is_dir()}


@pytest.mark.usefixtures("gpu")
class TestFromTheCpuToTheGpuAndBack:
    def test_a_backend_is_proved_used_and_gone_back_from(self, gpu_bundle: Path) -> None:
        assert load_report().device == "cpu"
        installer = BinaryInstaller(source=str(gpu_bundle))
        plan = installer.plan()
        assert "the CUDA backend cuda12 for Tesla T4" in str(plan)
        installed = installer.install(plan)
        assert installed.proof["gpus"] == ["Tesla T4"]
        assert installed.proof["layers_on_gpu"] == 4
        assert min(installed.proof["tokens_per_sec"], installed.proof["cpu_tokens_per_sec"]) > 0
        assert installer.is_installed()
        assert installer.get_binary_paths()["llama_lib"] == installed.folder
        report = load_report()
        assert (report.device, report.backend, report.offload) == ("cuda", "cuda12", "full")
        assert installer.rollback() == ()
        assert load_report().device == "cpu"
        assert folders_of(installer) == set()

    def test_without_a_backend_the_reason_names_the_command(self) -> None:
        report = load_report()
        assert "carries no CUDA backend for Tesla T4" in report.reason
        assert report.remedy == "Install one: llcuda gpu install"

    @pytest.mark.parametrize(
        ("name", "says"),
        [("no-driver", "libcuda.so.1"), ("undefined", "undefined symbol"), ("null", "did not get onto the GPU")],
    )
    def test_a_backend_that_does_not_work_is_never_used(
        self, tmp_path: Path, compiled: Path, binaries: Path, *, gpu_bundle: Path, name: str, says: str
    ) -> None:
        good = BinaryInstaller(source=str(gpu_bundle)).download_binary()
        bad = write_bundle(tmp_path / "bad", draft_of(compiled, name, binaries=binaries))
        with pytest.raises(InstallError, match=says) as caught:
            BinaryInstaller(source=str(bad)).download_binary()
        assert caught.value.log_tail
        assert read_installed() == (good,)
        assert folders_of(BinaryInstaller()) == {good.name}
        assert load_report().device == "cuda"

    def test_a_backend_that_computes_wrongly_is_never_used(
        self, gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llcuda.installer.proof._QUESTIONS", (("What is 2+2?", "5"),))
        with pytest.raises(InstallError, match="computes wrongly here: What is"):
            BinaryInstaller(source=str(gpu_bundle)).download_binary()
        assert read_installed() == ()

    def test_a_backend_for_another_build_of_llama_cpp_is_left_out(self, gpu_bundle: Path) -> None:
        installed = BinaryInstaller(source=str(gpu_bundle)).download_binary()
        path = installed.folder / "BUILD.json"
        record = json.loads(path.read_text())
        record["llama_cpp"]["tag"] = "b99999"
        path.write_text(json.dumps(record))
        assert installed.folder not in {backend.library.parent for backend in find_backends()}
        assert load_report().device == "cpu"

    def test_a_damaged_backend_is_an_error_with_the_way_out_and_can_be_installed_again(self, gpu_bundle: Path) -> None:
        installer = BinaryInstaller(source=str(gpu_bundle))
        installed = installer.download_binary()
        library = installed.folder / LIBRARY
        library.write_bytes(library.read_bytes()[:-1])
        assert not installer.is_installed()
        (problem,) = installer.verify()
        assert "gpu install --force" in problem.remedy
        with pytest.raises(llcuda.LlcudaError, match="expected") as caught:
            load_report()
        assert "gpu rollback" in caught.value.hint
        again = installer.download_binary()
        assert again.folder != installed.folder
        assert installer.verify() == ()
        assert load_report().device == "cuda"

    def test_what_is_there_already_is_not_installed_twice_unless_forced(self, gpu_bundle: Path) -> None:
        installer = BinaryInstaller(source=str(gpu_bundle))
        first = installer.download_binary()
        assert installer.download_binary() == first
        forced = installer.download_binary(force=True)
        assert (forced.sha256, forced.folder != first.folder) == (first.sha256, True)
        assert installer.rollback() == ()

    def test_going_back_is_to_the_one_before(self, tmp_path: Path, compiled: Path, binaries: Path) -> None:
        installed = []
        for number in range(4):
            draft = draft_of(compiled, binaries=binaries)
            draft.record["date"] = f"2026-01-0{number + 1}T00:00:00Z"
            bundle = write_bundle(tmp_path / str(number), draft)
            installed.append(BinaryInstaller(source=str(bundle)).download_binary())
        installer = BinaryInstaller()
        assert folders_of(installer) == {one.name for one in installed[1:]}
        assert installer.rollback() == (installed[2],)
        assert installer.rollback() == (installed[1],)
        assert installer.rollback() == ()
        with pytest.raises(UsageError, match="nothing to go back to"):
            installer.rollback()

    def test_a_backend_can_be_removed(self, gpu_bundle: Path) -> None:
        installer = BinaryInstaller(source=str(gpu_bundle))
        installer.download_binary()
        with pytest.raises(UsageError, match="cuda13 is not installed"):
            installer.remove("cuda13")
        installer.remove("cuda12")
        assert (installer.list_installed(), folders_of(installer)) == ((), set())


def test_without_a_gpu_nothing_is_looked_for_and_a_backend_is_refused(
    gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "find_devices", lambda **_: devices())
    monkeypatch.setattr(install, "open_source", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(NoDeviceError, match="no NVIDIA GPU"):
        BinaryInstaller().download_binary()
    monkeypatch.undo()
    monkeypatch.setattr(install, "find_devices", lambda **_: devices())
    with pytest.raises(NoDeviceError, match="no NVIDIA GPU"):
        BinaryInstaller(source=str(gpu_bundle)).download_binary()


class TestSources:
    """A CPU bundle takes the same path as a backend's, from each kind of source."""

    @pytest.mark.parametrize("place", ["file", "file without index", "file with digest", "folder", "index"])
    def test_from_this_machine(self, tmp_path: Path, cpu_bundle: Path, place: str) -> None:
        for path in cpu_bundle.parent.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        if place.startswith("file "):
            (tmp_path / "index.json").unlink()
        if place == "file without index":
            (tmp_path / f"{cpu_bundle.name}.sha256").unlink()
        named = {"folder": tmp_path, "index": tmp_path / "index.json"}.get(place, tmp_path / cpu_bundle.name)
        installed = BinaryInstaller(source=str(named)).download_binary()
        assert (installed.profile, installed.proof["device"]) == (read_build_info(installed.folder).profile, "cpu")
        assert BinaryInstaller().verify() == ()

    def test_a_file_that_is_not_what_the_digest_beside_it_says(self, tmp_path: Path, cpu_bundle: Path) -> None:
        copied = tmp_path / cpu_bundle.name
        copied.write_bytes(cpu_bundle.read_bytes())
        copied.with_name(copied.name + ".sha256").write_text("0" * 64)
        with pytest.raises(ChecksumMismatchError):
            BinaryInstaller(source=str(copied)).download_binary()
        assert read_installed() == ()

    @pytest.mark.parametrize("address", ["folder", "index", "bundle"])
    def test_from_a_web_server(self, cpu_bundle: Path, address: str) -> None:
        with serve_plain(cpu_bundle) as server:
            ending = {"folder": "/", "index": "/index.json", "bundle": f"/{cpu_bundle.name}"}[address]
            installed = BinaryInstaller(source=f"{server.url}/plain{ending}", progress=False).download_binary()
        assert installed.source.startswith(server.url)

    def test_from_the_hub(self, home: Path, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve() as hub:
            files = {f"v{llcuda.__version__}/{path.name}": path.read_bytes() for path in cpu_bundle.parent.iterdir()}
            hub.datasets[HUB_SOURCE.removeprefix("hf://datasets/")] = files
            for name, value in hub.environment(home).items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("LLCUDA_HOME", str(home))
            monkeypatch.setenv("HF_TOKEN", "hf_secret")
            monkeypatch.setattr(install, "find_devices", lambda **_: devices(T4))
            profile = read_build_info(binaries_dir()).profile
            installed = BinaryInstaller(progress=False).download_binary(profile=profile)
            assert {headers.get("authorization") for _, _, headers in hub.requests} == {"Bearer hf_secret"}
        assert installed.source == HUB_SOURCE
        assert not [path for path in (home / "binaries" / "downloads").iterdir() if path.suffix != ".lock"]

    def test_a_broken_connection_is_resumed(self, cpu_bundle: Path) -> None:
        with serve_plain(cpu_bundle) as server:
            server.faults.cut_after, server.faults.cuts = 3_000_000, 2  # the index is shorter and comes whole
            BinaryInstaller(source=f"{server.url}/plain", progress=False).download_binary()
            ranges = [headers.get("range") for headers in server.body_requests()]
        assert ranges[-1] is not None
        assert 2_900_000 < int(ranges[-1].removeprefix("bytes=").rstrip("-")) <= 3_000_000

    def test_a_killed_download_is_resumed_by_the_next(self, home: Path, cpu_bundle: Path) -> None:
        with serve_plain(cpu_bundle) as server:
            server.faults.stall_after, server.faults.stalls = 2_000_000, 2
            command = [sys.executable, "-c", DOWNLOAD, f"{server.url}/plain"]
            with subprocess.Popen(command, env={**os.environ, "LLCUDA_HOME": str(home)}) as process:
                wait_until(lambda: any(path.stat().st_size >= 1_900_000 for path in list_downloads(home)))
                process.kill()
            assert read_installed() == ()
            server.faults.stalls = 0
            server.requests.clear()
            BinaryInstaller(source=f"{server.url}/plain", progress=False).download_binary()
            assert [headers["range"] for headers in server.body_requests() if "range" in headers]

    def test_wrong_bytes_from_a_server_are_thrown_away(self, home: Path, tmp_path: Path, cpu_bundle: Path) -> None:
        del tmp_path
        with serve_plain(cpu_bundle) as server:
            data = bytearray(server.plain[cpu_bundle.name])
            data[5000] ^= 1
            server.plain[cpu_bundle.name] = bytes(data)
            with pytest.raises(ChecksumMismatchError):
                BinaryInstaller(source=f"{server.url}/plain", progress=False).download_binary()
        assert [path.suffix for path in (home / "binaries" / "downloads").iterdir()] == [".lock"]

    def test_more_bytes_than_announced_are_not_taken(self, cpu_bundle: Path) -> None:
        with serve_plain(cpu_bundle) as server:
            server.plain[cpu_bundle.name] += bytes(1000)
            with pytest.raises(DownloadError, match="more than the"):
                BinaryInstaller(source=f"{server.url}/plain", progress=False).download_binary()

    @pytest.mark.parametrize(("status", "hint"), [(404, "name another with --from"), (401, "HF_TOKEN")])
    def test_a_refusal_says_what_to_do(self, cpu_bundle: Path, status: int, hint: str) -> None:
        with serve_plain(cpu_bundle) as server:
            server.faults.status = status
            with pytest.raises(DownloadError, match=f"HTTP {status}") as caught:
                BinaryInstaller(source=f"{server.url}/plain").plan()
        assert hint in caught.value.hint

    def test_through_a_proxy(self, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve() as proxy:
            # A proxy is asked for whole addresses; this one answers them itself, so that nobody else can have.
            base = "http://bundles.invalid/plain"
            proxy.plain.update({path.name: path.read_bytes() for path in cpu_bundle.parent.iterdir()})
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            installed = BinaryInstaller(source=base, progress=False).download_binary()
            assert all(path.startswith(base) for _, path, _ in proxy.requests)
        assert installed.source == base

    @pytest.mark.parametrize("name", ["LLCUDA_OFFLINE", "HF_HUB_OFFLINE", "LOCAL_LLAMA_INFERENCE_NO_AUTO_INSTALL"])
    def test_offline_forbids_the_network_and_not_a_file(
        self, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, "1")
        with pytest.raises(UsageError, match=f"{name} forbids") as caught:
            BinaryInstaller(source="http://127.0.0.1:9/").plan()
        assert "--from FILE" in caught.value.hint
        assert BinaryInstaller(source=str(cpu_bundle)).download_binary().source == str(cpu_bundle)


DOWNLOAD = """
import sys
from llcuda import BinaryInstaller
BinaryInstaller(source=sys.argv[1], progress=False).download_binary()
"""


def list_downloads(home: Path) -> list[Path]:
    return [path for path in (home / "binaries" / "downloads").glob("*") if not path.suffix]


@contextmanager
def serve_plain(bundle: Path) -> Iterator[Hub]:
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        yield server


class TestDisks:
    def test_a_file_that_may_not_grow_further_is_a_full_disk(self, home: Path, cpu_bundle: Path) -> None:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
        script = f"{limit}\n{DOWNLOAD}"
        done = subprocess.run(
            [sys.executable, "-c", script, str(cpu_bundle)],
            env={**os.environ, "LLCUDA_HOME": str(home)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "InstallError" in done.stderr
        assert "cannot be written" in done.stderr
        assert (read_installed(), folders_of(BinaryInstaller())) == ((), set())

    def test_a_disk_without_the_room_is_found_out_before_anything_is_unpacked(
        self, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = install.shutil.disk_usage("/")  # type: ignore[attr-defined]  # the module's own import
        monkeypatch.setattr(install.shutil, "disk_usage", lambda _: usage._replace(free=1000))  # type: ignore[attr-defined]
        with pytest.raises(InstallError, match="1000 are free") as caught:
            BinaryInstaller(source=str(cpu_bundle)).download_binary()
        assert "LLCUDA_HOME" in caught.value.hint
        assert folders_of(BinaryInstaller()) == set()

    def test_a_place_that_cannot_be_written(
        self, tmp_path: Path, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "in-the-way").write_text("a file")
        monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "in-the-way"))
        with pytest.raises(InstallError, match="cannot be written") as caught:
            BinaryInstaller(source=str(cpu_bundle)).download_binary()
        assert "LLCUDA_HOME" in caught.value.hint
        assert load_report().device == "cpu"

    def test_a_folder_of_ones_own(self, tmp_path: Path, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        installer = BinaryInstaller(tmp_path / "own", source=str(cpu_bundle))
        assert installer.download_binary().folder.is_relative_to(tmp_path / "own")
        assert read_installed() == ()
        monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "own"))
        assert len(read_installed()) == 1


class TestSeveralAtOnce:
    def test_two_installs_at_once_install_it_once(self, cpu_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
        results: list[Any] = []

        def run() -> None:
            results.append(BinaryInstaller(source=str(cpu_bundle)).download_binary())

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({one.folder for one in results}) == 1
        assert any("Another process is installing" in record.getMessage() for record in caplog.records)
        assert BinaryInstaller().verify() == ()

    def test_an_engine_that_runs_keeps_its_backend_when_it_is_removed(self, gpu: None, gpu_bundle: Path) -> None:
        del gpu
        installer = BinaryInstaller(source=str(gpu_bundle))
        installer.download_binary()
        with llcuda.InferenceEngine() as engine:
            engine.load_model("demo", silent=True)
            installer.remove("cuda12")
            assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."


class TestCommands:
    def test_the_whole_way_on_the_command_line(self, cpu_bundle: Path, binaries: Path) -> None:
        profile = read_build_info(binaries).profile
        asked = run_cli("gpu", "install", "--from", str(cpu_bundle))
        assert (asked.returncode, "--yes" in asked.stderr, "MB" in asked.stderr) == (2, True, True)
        done = run_cli("gpu", "install", "--from", str(cpu_bundle), "--yes")
        assert done.returncode == 0, done.stderr
        assert f"Installed {profile}" in done.stdout
        assert "Proved: the demo model answered right" in done.stdout
        status = json.loads(run_cli("gpu", "status", "--json").stdout)
        assert [one["profile"] for one in status["installed"]] == [profile]
        assert f"installed: {profile} on " in run_cli("gpu", "status").stdout
        assert "1 installed, every SHA-256 right." in run_cli("gpu", "verify").stdout
        assert json.loads(run_cli("gpu", "rollback", "--json").stdout) == []
        again = run_cli("gpu", "rollback")
        assert (again.returncode, "nothing to go back to" in again.stderr) == (2, True)

    def test_consent_by_variable_and_the_loss_of_a_file(self, cpu_bundle: Path, binaries: Path) -> None:
        profile = read_build_info(binaries).profile
        done = run_cli("gpu", "install", "--from", str(cpu_bundle), "--json", AUTO_UPGRADE_GPU="true")
        installed = json.loads(done.stdout)
        assert installed["profile"] == profile
        (Path(installed["folder"]) / "libllama.so").unlink()
        broken = run_cli("gpu", "verify")
        assert (broken.returncode, "libllama.so" in broken.stdout, "--force" in broken.stdout) == (3, True, True)
        assert run_cli("gpu", "rm", profile).stdout == "In use: what the package carries.\n"

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2), ("no\n", 2)])
    def test_on_a_terminal_it_asks(self, cpu_bundle: Path, answer: str, code: int) -> None:
        ours, theirs = os.openpty()
        try:
            os.write(ours, answer.encode())
            done = run_cli("gpu", "install", "--from", str(cpu_bundle), stdin=theirs)
        finally:
            os.close(ours)
            os.close(theirs)
        assert "Install it? [y/N]" in done.stderr
        assert done.returncode == code
        assert bool(read_installed()) == (code == 0)

    def test_a_machine_without_a_gpu_is_told_at_once(self) -> None:
        done = run_cli("gpu", "install", "--yes", CUDA_VISIBLE_DEVICES="-1")
        assert done.returncode == 4
        assert done.stderr.startswith("llcuda: ")


def run_cli(*arguments: str, stdin: int = subprocess.DEVNULL, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llcuda", *arguments],
        env={**os.environ, **variables}, capture_output=True, text=True, stdin=stdin, timeout=120, check=False,
    )  # fmt: skip


def test_executables_are_installed_where_the_package_has_none(
    tmp_path: Path, cpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare" / "llcuda"
    bare.mkdir(parents=True)
    source = Path(llcuda.__path__[0])
    for path in source.iterdir():
        if path.name != "binaries":
            (bare / path.name).symlink_to(path)
    monkeypatch.setenv("PYTHONPATH", str(bare.parent))
    code = "import llcuda; print(llcuda.quick_infer('What is 2+2?', temperature=0))"
    missing = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert missing.returncode
    profile = cpu_bundle.name.split("-")[2]
    done = run_cli("gpu", "install", "--from", str(cpu_bundle), "--backend", profile, "--yes")
    assert done.returncode == 0, done.stderr
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert answer.stdout == "2 + 2 = 4.\n", answer.stderr
    assert settings.home_dir().is_dir()
