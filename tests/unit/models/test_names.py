"""What names mean, and which files they choose: pure functions of text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.errors import UsageError
from llcuda.models.file_names import (
    PREFERENCE,
    choose_file,
    choose_projector,
    is_model,
    list_parts,
    parse_quantisation,
)
from llcuda.models.names import (
    ArtifactName,
    DemoName,
    DigestName,
    HubName,
    ModelName,
    PathName,
    RegistryName,
    UrlName,
    list_part_urls,
    parse_name,
)

HEX = "0123456789abcdef" * 4


class TestNames:
    @pytest.mark.parametrize(
        ("text", "meaning"),
        [
            ("demo", DemoName("demo")),
            ("DEMO", DemoName("demo")),
            ("demo-draft", DemoName("demo-draft")),
            ("./demo", PathName("./demo")),
            ("/models/x.gguf", PathName("/models/x.gguf")),
            ("~/x.gguf", PathName("~/x.gguf")),
            ("../x", PathName("../x")),
            ("x.gguf", PathName("x.gguf")),
            ("models/x.gguf", PathName("models/x.gguf")),
            ("a/b/c/d.gguf", PathName("a/b/c/d.gguf")),
            ("a/b/c", PathName("a/b/c")),
            (f"sha256:{HEX}", DigestName(f"sha256:{HEX}")),
            (f"sha256-{HEX}", DigestName(f"sha256:{HEX}")),
            ("gemma-3-1b-Q4_K_M", RegistryName("gemma-3-1b-Q4_K_M")),
            ("qwen3.5:4b", RegistryName("qwen3.5:4b")),
            ("org/repo", HubName("org/repo")),
            ("org/repo:Q8_0", HubName("org/repo", quantisation="Q8_0")),
            ("org/repo:UD-Q4_K_XL", HubName("org/repo", quantisation="UD-Q4_K_XL")),
            (
                "unsloth/gemma-3-1b-it-GGUF:gemma-3-1b-it-Q4_K_M.gguf",
                HubName("unsloth/gemma-3-1b-it-GGUF", file="gemma-3-1b-it-Q4_K_M.gguf"),
            ),
            ("org/repo:sub/x.gguf", HubName("org/repo", file="sub/x.gguf")),
            ("org/repo@v1:Q8_0", HubName("org/repo", quantisation="Q8_0", revision="v1")),
            ("https://example.org/a/x.gguf", UrlName("https://example.org/a/x.gguf")),
            ("http://example.org/x.gguf?token=1", UrlName("http://example.org/x.gguf?token=1")),
            (
                f"https://example.org/x.gguf#sha256={HEX}",
                UrlName("https://example.org/x.gguf", f"sha256:{HEX}"),
            ),
            ("https://huggingface.co/org/repo/resolve/main/x.gguf", HubName("org/repo", file="x.gguf")),
            ("hf.co/org/repo", HubName("org/repo")),
            ("hf.co/org/repo:Q4_K_M", HubName("org/repo", quantisation="Q4_K_M")),
            ("huggingface.co/org/repo/resolve/main/x.gguf", HubName("org/repo", file="x.gguf")),
            ("https://huggingface.co/org/repo", HubName("org/repo")),
            ("https://huggingface.co/org/repo/", HubName("org/repo")),
            ("https://huggingface.co/org/repo/tree/v2", HubName("org/repo", revision="v2")),
            ("https://hf.co/org/repo:Q8_0", HubName("org/repo", quantisation="Q8_0")),
            ("file:///models/a%20b.gguf", PathName("/models/a b.gguf")),
            ("oci://host:5000/a/b:v1", ArtifactName("oci://host:5000/a/b:v1", "oci://host:5000/a/b", "v1")),
            ("oci+http://host/a", ArtifactName("oci+http://host/a", "oci+http://host/a", "latest")),
            (
                f"oci://host/a:v1@sha256:{HEX}",
                ArtifactName(f"oci://host/a:v1@sha256:{HEX}", "oci://host/a", f"sha256:{HEX}"),
            ),
            ("https://hf.co/org/repo/blob/main/s/x.gguf?download=true", HubName("org/repo", file="s/x.gguf")),
            ("https://huggingface.co/org/repo/resolve/v2/x.gguf", HubName("org/repo", file="x.gguf", revision="v2")),
        ],
    )
    def test_each_way_of_naming_a_model_is_told_apart(self, text: str, meaning: ModelName) -> None:
        assert parse_name(text) == meaning

    @pytest.mark.parametrize("text", ["org/repo", "gemma-3-1b-Q4_K_M", "x"])
    def test_a_file_of_that_name_wins(self, text: str) -> None:
        assert parse_name(text, is_file=True) == PathName(text)

    @pytest.mark.parametrize(
        "text",
        [
            "", "  ", "a\0b", "sha256:abc", "sha256:../../x", "org/repo:../x.gguf", "org/repo:/etc/x.gguf",
            "org/repo:a//b.gguf", "org/repo:a\\b.gguf", "org/repo:./x.gguf", "org/repo:Q4 K", "org/repo@../..:Q8_0",
            "org/repo@a..b", "file://host/x.gguf", "ftp://host/x.gguf", "http:///x.gguf", "https://example.org/",
            "https://example.org/x.bin", "https://example.org/x.gguf#sha256=12", "javascript://x/y.gguf",
            "ollama://llama3.2", "ollama.com/library/llama3.2:1b", "https://ollama.com/library/llama3.2",
            "registry.example.org:5000/models/x:1", "docker.io/ai/smollm2", "s3://bucket/x.gguf", "oci://host",
            "oci://host/UPPER", "oci://u:p@host/x", "oci://host/../x", "oci://host/x@sha256:12",
            "oci://host/x:" + "t" * 200,
        ],
    )  # fmt: skip
    def test_what_cannot_be_a_name_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_name(text)

    @given(st.text(max_size=60))
    def test_any_text_is_a_name_or_refused(self, text: str) -> None:
        try:
            parsed = parse_name(text)
        except UsageError:
            return
        if isinstance(parsed, HubName):
            assert ".." not in parsed.repository.split("/")
            assert ".." not in (parsed.file or "").split("/")

    @pytest.mark.parametrize("text", ["org/repo", "org/repo:Q8_0", "org/repo:s/x.gguf", "org/repo@v1:Q8_0"])
    def test_a_hub_name_is_written_as_it_was_read(self, text: str) -> None:
        parsed = parse_name(text)
        assert isinstance(parsed, HubName)
        assert parsed.label == text

    def test_the_parts_of_an_address_keep_the_rest_of_it(self) -> None:
        url = "https://example.org/a%20b/m-00002-of-00002.gguf?token=1"
        assert list_part_urls(url) == {
            "m-00001-of-00002.gguf": "https://example.org/a%20b/m-00001-of-00002.gguf?token=1",
            "m-00002-of-00002.gguf": url,
        }

    def test_an_address_of_one_file_is_its_only_part(self) -> None:
        assert list_part_urls("http://h/a%2Bb.gguf") == {"a+b.gguf": "http://h/a%2Bb.gguf"}


class TestQuantisation:
    @pytest.mark.parametrize(
        ("file", "label"),
        [
            ("gemma-3-1b-it-Q4_K_M.gguf", "Q4_K_M"),
            ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
            ("tinyllama-1.1b-chat-v1.0.Q5_K_M.gguf", "Q5_K_M"),
            ("Model-UD-Q4_K_XL.gguf", "Q4_K_XL"),
            ("m-IQ4_XS.gguf", "IQ4_XS"),
            ("m-iq3_xxs.gguf", "IQ3_XXS"),
            ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
            ("m-MXFP4_MOE.gguf", "MXFP4_MOE"),
            ("m-NVFP4.gguf", "NVFP4"),
            ("m-f16.gguf", "F16"),
            ("m-fp16.gguf", "F16"),
            ("m-BF16.gguf", "BF16"),
            ("m-TQ1_0.gguf", "TQ1_0"),
            ("m-Q8_0-00001-of-00003.gguf", "Q8_0"),
            ("Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M"),
            ("phi-3-mini-4k-instruct-q4.gguf", "Q4"),
            ("Qwen3-4B.gguf", None),
            ("q-model.gguf", None),
        ],
    )
    def test_the_quantisation_is_read_from_the_name(self, file: str, label: str | None) -> None:
        assert parse_quantisation(file) == label


class TestParts:
    def test_all_parts_are_named_from_any_one(self) -> None:
        parts = tuple(f"d/m-0000{number}-of-00003.gguf" for number in (1, 2, 3))
        assert list_parts("d/m-00002-of-00003.gguf") == parts

    @pytest.mark.parametrize(
        "file", ["m.gguf", "m-1-of-3.gguf", "m-00001-of-00000.gguf", "m-00001-of-99999.gguf", "m-00001-of-00002.bin"]
    )
    def test_what_is_no_part_stands_alone(self, file: str) -> None:
        assert list_parts(file) == (file,)


class TestChoice:
    FILES = (
        "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-BF16-00001-of-00002.gguf",
        "m-BF16-00002-of-00002.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf", "imatrix.gguf", "README.md",
    )  # fmt: skip

    def test_four_bits_are_taken_where_nothing_is_said(self) -> None:
        assert choose_file(self.FILES) == "m-Q4_K_M.gguf"

    @pytest.mark.parametrize(
        ("quantisation", "file"),
        [
            ("Q8_0", "m-Q8_0.gguf"),
            ("q8_0", "m-Q8_0.gguf"),
            ("Q4_K_M", "m-Q4_K_M.gguf"),
            ("UD-Q4_K_M", "m-UD-Q4_K_M.gguf"),
            ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
            ("bf16", "m-BF16-00001-of-00002.gguf"),
            ("F16", None),
            ("IQ1_S", None),
        ],
    )
    def test_the_quantisation_asked_for_is_taken_or_none(self, quantisation: str, file: str | None) -> None:
        assert choose_file(self.FILES, quantisation) == file

    def test_every_preference_beats_the_ones_after_it(self) -> None:
        for first, second in pairwise(PREFERENCE):
            assert choose_file([f"m-{second}.gguf", f"m-{first}.gguf"]) == f"m-{first}.gguf"

    def test_a_model_without_a_quantisation_in_its_name_is_better_than_none(self) -> None:
        assert choose_file(["model.gguf", "mmproj.gguf"]) == "model.gguf"

    @pytest.mark.parametrize("files", [[], ["README.md"], ["mmproj-F16.gguf"], ["imatrix.gguf", "x.safetensors"]])
    def test_no_model_is_none(self, files: list[str]) -> None:
        assert choose_file(files) is None

    def test_the_top_folder_and_the_shorter_name_come_first(self) -> None:
        files = ["sub/m-Q4_K_M.gguf", "m-extra-Q4_K_M.gguf", "m-Q4_K_M.gguf"]
        assert choose_file(files) == "m-Q4_K_M.gguf"

    def test_what_lies_beside_models_is_none(self) -> None:
        beside = ("mmproj-m.gguf", "m.mmproj-F16.gguf", "imatrix.gguf", "mtp-m.gguf", "sub/eagle3-m.gguf", "m.bin")
        assert not any(is_model(file) for file in beside)
        assert is_model("sub/M.GGUF")

    @given(st.lists(st.text(alphabet="mQ4_KM80-.guf/0123", max_size=20), max_size=8), st.none() | st.just("Q4_K_M"))
    def test_only_what_is_there_is_chosen(self, files: list[str], quantisation: str | None) -> None:
        chosen = choose_file(files, quantisation)
        assert chosen is None or any(chosen in list_parts(file) for file in files)


class TestProjectors:
    def test_the_most_common_kind_is_taken(self) -> None:
        files = ["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "m-Q8_0.gguf"]
        assert choose_projector(files, "m-Q8_0.gguf") == "mmproj-F16.gguf"

    def test_the_one_with_the_models_name_is_taken(self) -> None:
        files = ["mmproj-other-4b-F16.gguf", "mmproj-model-8b-Q8_0.gguf"]
        assert choose_projector(files, "model-8b-Q4_K_M.gguf") == "mmproj-model-8b-Q8_0.gguf"

    def test_the_nearest_folder_wins(self) -> None:
        files = ["mmproj-F16.gguf", "a/mmproj-F32.gguf", "b/mmproj-F16.gguf"]
        assert choose_projector(files, "a/m.gguf") == "a/mmproj-F32.gguf"
        assert choose_projector(files, "c/m.gguf") == "mmproj-F16.gguf"

    def test_a_model_without_one_has_none(self) -> None:
        assert choose_projector(["m.gguf", "b/mmproj.gguf"], "m.gguf") is None
