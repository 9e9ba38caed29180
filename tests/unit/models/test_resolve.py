"""Names that lead to files of this disk: demo models, paths, folders, digests, names in the store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llcuda.errors import DownloadError, ModelFormatError, ModelNotFoundError, UsageError
from llcuda.models import inspect_model, list_models, put_model, remove_model, resolve, resolve_model
from llcuda.models.hub_cache import cache_dir, cached_digest, list_cached, list_cached_repositories, remove_cached
from llcuda.models.registry import read_registry
from llcuda.store import ModelStore
from tests.made_models.gguf_builder import STRING, U16, small_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep everything in one folder, and forbid downloads: no test here may open a connection."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "llcuda"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LLCUDA_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_model(path: Path, *, name: str = "Small", part: tuple[int, int] | None = None) -> Path:
    model = small_model()
    model.pairs[1] = ("general.name", STRING, name)
    if part:
        model.pairs += [("split.no", U16, part[0]), ("split.count", U16, part[1])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.build())
    return path


def write_parts(folder: Path, count: int = 3) -> list[Path]:
    return [
        write_model(folder / f"big-{number + 1:05}-of-{count:05}.gguf", part=(number, count)) for number in range(count)
    ]


def write_cached(home: Path, repository: str, file: str, *, commit: str = "c" * 40, name: str = "Small") -> Path:
    """Put a file into the hub's cache as huggingface_hub does, and return its blob."""
    folder = home / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    blob = write_model(folder / "blobs" / f"{len(name):064x}", name=name)
    link = folder / "snapshots" / commit / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return blob


class TestDemo:
    @pytest.fixture
    def package(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(resolve, "__file__", str(home / "package" / "models" / "resolve.py"))
        return home / "package" / "models_data"

    @pytest.mark.parametrize("name", ["demo", "demo-draft", "DEMO"])
    def test_a_demo_model_lies_in_the_package(self, package: Path, name: str) -> None:
        path = write_model(package / f"{name.lower()}.gguf")
        model = resolve_model(name)
        assert (model.path, model.source, model.name) == (path, "demo", name.lower())

    @pytest.mark.usefixtures("package")
    def test_a_package_without_it_says_where_it_was_looked_for(self) -> None:
        with pytest.raises(ModelNotFoundError, match=r"models_data/demo\.gguf"):
            resolve_model("demo")

    def test_a_file_of_that_name_does_not_hide_it(self, package: Path, home: Path) -> None:
        path = write_model(package / "demo.gguf", name="Demo")
        write_model(home / "demo")
        assert resolve_model("demo").path == path
        assert resolve_model("./demo").info.name == "Small"


class TestPaths:
    @pytest.mark.parametrize("form", [str, Path, os.path.relpath])
    def test_a_path_is_taken_in_every_form(self, home: Path, form: type) -> None:
        path = write_model(home / "my model.gguf")
        model = resolve_model(form(path))
        assert model.path.samefile(path)
        assert (model.source, model.digest, model.mmproj, model.parts) == ("path", None, None, (model.path,))

    def test_the_home_folder_can_be_written_as_a_tilde(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(home))
        path = write_model(home / "x.gguf")
        assert resolve_model("~/x.gguf").path == path

    @pytest.mark.parametrize("name", ["gemma-3-1b-Q4_K_M", "org/repo", "model"])
    def test_a_file_that_is_there_wins_over_other_meanings(self, home: Path, name: str) -> None:
        write_model(home / name)
        assert resolve_model(name).source == "path"

    def test_a_path_object_is_always_a_path(self) -> None:
        with pytest.raises(ModelNotFoundError, match="no file"):
            resolve_model(Path("demo"))

    def test_a_missing_file_suggests_near_ones(self, home: Path) -> None:
        near = write_model(home / "gemma-Q4_K_M.gguf")
        with pytest.raises(ModelNotFoundError) as caught:
            resolve_model(str(home / "gema-Q4_K_M.gguf"))
        assert caught.value.suggestions == (str(near),)
        assert isinstance(caught.value, FileNotFoundError)

    @pytest.mark.parametrize(
        "name", ["none.gguf", "/nowhere/none.gguf", "./none", "~nobody-of-this-name/x.gguf", "n" * 3000 + ".gguf"]
    )
    def test_a_missing_file_is_not_found(self, name: str) -> None:
        with pytest.raises(ModelNotFoundError):
            resolve_model(name)

    def test_a_path_through_a_file_is_not_found(self, home: Path) -> None:
        write_model(home / "x.gguf")
        with pytest.raises(ModelNotFoundError):
            resolve_model("./x.gguf/y.gguf")

    def test_a_link_to_itself_cannot_be_opened(self, home: Path) -> None:
        (home / "loop.gguf").symlink_to("loop.gguf")
        with pytest.raises(ModelNotFoundError, match="cannot be opened"):
            resolve_model("loop.gguf")

    def test_a_file_that_is_no_model_is_a_format_error(self, home: Path) -> None:
        (home / "x.gguf").write_bytes(b"no model")
        with pytest.raises(ModelFormatError):
            resolve_model("x.gguf")

    def test_a_folder_means_the_model_in_it(self, home: Path) -> None:
        path = write_model(home / "folder" / "m-Q4_K_M.gguf")
        write_model(home / "folder" / "m-Q8_0.gguf")
        assert resolve_model(str(home / "folder")).path == path

    def test_a_folder_without_a_model_says_so(self, home: Path) -> None:
        (home / "folder").mkdir()
        with pytest.raises(ModelNotFoundError, match=r"no \.gguf file"):
            resolve_model(f"{home}/folder")


class TestParts:
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_any_part_stands_for_all(self, home: Path, number: int) -> None:
        parts = write_parts(home)
        model = resolve_model(str(parts[number]))
        assert (model.path, model.parts) == (parts[0], tuple(parts))
        assert model.info.file_bytes == sum(part.stat().st_size for part in parts)

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_missing_part_is_named(self, home: Path, number: int) -> None:
        parts = write_parts(home)
        parts[number].unlink()
        with pytest.raises(ModelNotFoundError, match=parts[number].name):
            resolve_model(str(parts[2]))

    def test_a_damaged_part_is_found_before_it_is_loaded(self, home: Path) -> None:
        parts = write_parts(home)
        parts[2].write_bytes(b"GGUF")
        with pytest.raises(ModelFormatError, match=parts[2].name):
            resolve_model(str(parts[0]))


class TestProjectors:
    def test_one_beside_a_single_model_is_its_own(self, home: Path) -> None:
        write_model(home / "v" / "m-Q4_K_M.gguf")
        projector = write_model(home / "v" / "mmproj-F16.gguf")
        assert resolve_model(f"{home}/v/m-Q4_K_M.gguf").mmproj == projector

    def test_one_among_many_models_is_taken_only_by_name(self, home: Path) -> None:
        for name in ("gemma-3-4b-it-Q4_K_M", "gemma-3-4b-it-Q8_0", "qwen3-8b-Q4_K_M", "mmproj-gemma-3-4b-it-F16"):
            write_model(home / "v" / f"{name}.gguf")
        assert resolve_model(f"{home}/v/gemma-3-4b-it-Q8_0.gguf").mmproj == home / "v" / "mmproj-gemma-3-4b-it-F16.gguf"
        assert resolve_model(f"{home}/v/qwen3-8b-Q4_K_M.gguf").mmproj is None

    def test_a_projector_without_a_name_is_nobodys_among_many(self, home: Path) -> None:
        for name in ("a-Q8_0", "b-Q8_0", "mmproj-F16"):
            write_model(home / "v" / f"{name}.gguf")
        assert resolve_model(f"{home}/v/a-Q8_0.gguf").mmproj is None


class TestStore:
    def test_a_digest_leads_to_its_file(self, home: Path) -> None:
        digest = ModelStore().adopt(write_model(home / "x.gguf"))
        for name in (digest, digest.replace(":", "-")):
            model = resolve_model(name)
            assert (model.source, model.digest, model.path) == ("store", digest, ModelStore().path(digest))

    def test_a_digest_that_is_not_there_is_not_found(self) -> None:
        with pytest.raises(ModelNotFoundError, match="no file in the store"):
            resolve_model("sha256:" + "0" * 64)

    def test_a_name_in_the_store_is_a_models_name(self, home: Path) -> None:
        put_model(write_model(home / "x.gguf"), "my-own")
        assert resolve_model("my-own").source == "store"
        with pytest.raises(ModelNotFoundError) as caught:
            resolve_model("my-onw")
        assert caught.value.suggestions == ("my-own",)

    def test_a_stored_model_is_listed_and_removed(self, home: Path) -> None:
        file = write_model(home / "x.gguf")
        digest = put_model(file, is_copied=True).layers[0].digest
        assert [model.name for model in list_models() if model.source == "store"] == ["x"]
        assert inspect_model(digest).digest == inspect_model("x").digest == digest
        assert remove_model("x").bytes_freed > file.stat().st_size
        for name in ("x", digest):
            with pytest.raises(ModelNotFoundError):
                remove_model(name)


class TestRegistryNames:
    def test_a_wrong_name_suggests_the_right_one(self) -> None:
        with pytest.raises(ModelNotFoundError) as caught:
            resolve_model("gema-3-1b-Q4_K_M")
        assert caught.value.suggestions[0] == "gemma-3-1b-Q4_K_M"
        assert "Did you mean gemma-3-1b-Q4_K_M" in caught.value.hint

    def test_offline_a_model_that_is_not_here_names_the_variable(self) -> None:
        with pytest.raises(DownloadError, match="LLCUDA_OFFLINE"):
            resolve_model("gemma-3-1b-Q4_K_M")

    def test_a_model_in_the_hubs_cache_is_used(self, home: Path) -> None:
        blob = write_cached(home, "unsloth/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf")
        model = resolve_model("gemma-3-1b")
        assert model.path.resolve() == blob
        assert (model.source, model.digest) == ("registry", f"sha256:{blob.name}")

    def test_the_whole_registry_is_listed_with_what_is_here(self, home: Path) -> None:
        write_cached(home, "unsloth/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf")
        listed = {model.name: model for model in list_models() if model.source == "registry"}
        assert list(listed) == [entry.name for entry in read_registry()]
        assert [name for name, model in listed.items() if model.on_disk] == ["gemma-3-1b-Q4_K_M"]
        assert listed["gemma-3-1b-Q4_K_M"].bytes < 100_000
        assert not [model for model in list_models() if model.source == "hub"]

    @pytest.mark.parametrize("name", ["gemma-3-1b-Q4_K_M", "org/none", "https://example.org/x.gguf"])
    def test_inspecting_what_is_not_here_says_how_to_get_it(self, name: str) -> None:
        with pytest.raises(ModelNotFoundError) as caught:
            inspect_model(name)
        assert f"llcuda models pull {name}" in caught.value.hint

    @pytest.mark.parametrize("name", ["demo", "./x.gguf", "/x.gguf"])
    def test_what_was_not_downloaded_is_not_removed(self, name: str) -> None:
        with pytest.raises(UsageError):
            remove_model(name)


class TestHubCache:
    @pytest.mark.parametrize(
        ("variables", "folder"),
        [
            ({"HF_HUB_CACHE": "/a"}, "/a"),
            ({"HUGGINGFACE_HUB_CACHE": "/b"}, "/b"),
            ({"HF_HOME": "/c"}, "/c/hub"),
            ({"HF_HOME": "", "XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
            ({"HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": "/e"}, "/e/.cache/huggingface/hub"),
        ],
    )
    def test_the_cache_is_where_the_hubs_own_variables_say(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert cache_dir() == Path(folder)

    def test_a_cache_that_is_not_there_is_empty(self) -> None:
        assert list_cached("org/repo") == {}
        assert list_cached_repositories() == ()
        assert remove_cached("org/repo", "x.gguf") == 0

    def test_the_newest_commit_comes_first(self, home: Path) -> None:
        write_cached(home, "org/repo", "x.gguf", commit="a" * 40, name="old")
        new = write_cached(home, "org/repo", "x.gguf", commit="b" * 40, name="newer")
        old = write_cached(home, "org/repo", "only-old.gguf", commit="a" * 40, name="oldest")
        (home / "hf/hub/models--org--repo/refs/main").write_text("b" * 40)
        found = list_cached("org/repo")
        assert {name: path.resolve() for name, path in found.items()} == {"x.gguf": new, "only-old.gguf": old}

    def test_a_named_revision_means_that_one_only(self, home: Path) -> None:
        write_cached(home, "org/repo", "x.gguf", commit="a" * 40)
        assert list(list_cached("org/repo", "a" * 40)) == ["x.gguf"]
        assert list_cached("org/repo", "v2") == {}

    def test_a_link_without_its_blob_is_not_there(self, home: Path) -> None:
        write_cached(home, "org/repo", "x.gguf").unlink()
        assert list_cached("org/repo") == {}

    def test_files_in_folders_have_their_path_as_name(self, home: Path) -> None:
        write_cached(home, "org/repo", "sub/x.gguf")
        assert list(list_cached("org/repo")) == ["sub/x.gguf"]
        assert list_cached_repositories() == ("org/repo",)

    def test_a_blob_that_is_not_named_by_its_digest_has_none(self, home: Path) -> None:
        assert cached_digest(write_model(home / "x.gguf")) is None

    @pytest.mark.parametrize("file", ["x[1].gguf", "x*.gguf", "x?.gguf"])
    def test_a_strange_name_removes_that_file_alone(self, home: Path, file: str) -> None:
        write_cached(home, "org/repo", "x1.gguf", name="one")
        write_cached(home, "org/repo", file, name="other")
        assert remove_cached("org/repo", file) > 0
        assert list(list_cached("org/repo")) == ["x1.gguf"]

    def test_a_link_out_of_the_cache_is_removed_and_its_target_stays(self, home: Path) -> None:
        own = write_model(home / "own.gguf")
        link = home / "hf/hub/models--org--repo/snapshots" / ("a" * 40) / "x.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(own)
        assert remove_cached("org/repo", "x.gguf") == 0
        assert own.exists()
        assert not link.is_symlink()
