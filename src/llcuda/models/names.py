"""What the name of a model means: a demo, a path, a digest, a file on the hub, an address, or a registry's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from llcuda.errors import UsageError
from llcuda.models.file_names import list_parts
from llcuda.store import parse_digest
from llcuda.store.references import split_reference

DEMOS = ("demo", "demo-draft")
"""The models inside the package."""

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
_QUANTISATION = re.compile(_WORD)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_HUB_FILE = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+)")
_HUB_PAGE = re.compile(r"/([^/:]+/[^/:]+)(?:/tree/([^/]+))?/?(?::([^/]+))?")
_OLLAMA = re.compile(r"(?:ollama://|(?:https?://)?(?:registry\.)?ollama\.(?:com|ai)/)")

_MAX_PART, _MAX_FILE = 255, 1024


@dataclass(frozen=True, slots=True)
class DemoName:
    """A model inside the package."""

    name: str


@dataclass(frozen=True, slots=True)
class PathName:
    """A file on this machine."""

    path: str


@dataclass(frozen=True, slots=True)
class DigestName:
    """A file in the store, by its digest ``sha256:<64 hex>``."""

    digest: str


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository on the hub, with a file in it, a quantisation, or neither."""

    repository: str
    file: str | None = None
    quantisation: str | None = None
    revision: str = "main"

    @property
    def label(self) -> str:
        """The name as it is written."""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        suffix = self.file or self.quantisation
        return f"{self.repository}{revision}:{suffix}" if suffix else f"{self.repository}{revision}"


@dataclass(frozen=True, slots=True)
class UrlName:
    """An address of a file, and the digest it must have, if the name says it: ``#sha256=…``."""

    url: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class RegistryName:
    """A name that the registry may know."""

    name: str


@dataclass(frozen=True, slots=True)
class ArtifactName:
    """A model in an OCI registry: ``oci://HOST/REPOSITORY``, and its tag or its digest."""

    text: str
    """The name as it was given."""
    repository: str
    reference: str


ModelName = DemoName | PathName | DigestName | HubName | UrlName | ArtifactName | RegistryName


def parse_name(text: str, *, is_file: bool = False) -> ModelName:
    """Return what ``text`` names; ``is_file`` says whether it is the path of a file that exists.

    Raises UsageError for a name that cannot be one of a model.
    """
    if not text.strip() or "\0" in text:
        raise UsageError(f"{text!r} is not the name of a model", hint="`llcuda models list` shows the names there are.")
    if text.lower() in DEMOS:
        return DemoName(text.lower())
    if re.match(r"sha256[:-]", text):
        return DigestName(parse_digest(text))
    if not is_file:
        _refuse_foreign(text)
    if _SCHEME.match(text):
        return _parse_address(text)
    return _parse_unmarked(text, is_file=is_file)


def _refuse_foreign(text: str) -> None:
    """Refuse what another program would know, with the form that works here."""
    if _OLLAMA.match(text):
        raise UsageError(
            f"{text!r} is a name of Ollama's",
            hint="Name the same model on the hub, as org/repo:Q4_K_M, or take the file that Ollama has by its digest: "
            "sha256:… of its layer application/vnd.ollama.image.model.",
        )
    host, slash, _ = text.partition("/")
    if slash and (":" in host or host in {"docker.io", "ghcr.io", "quay.io"}) and not _SCHEME.match(text):
        raise UsageError(f"{text!r} is no name of a model", hint=f"If it is in a registry, write oci://{text}.")


def _parse_address(text: str) -> ModelName:
    scheme = text.partition("://")[0].lower()
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise UsageError(
                f"{text}: a file:// address has no host", hint="Write file:///folder/model.gguf, or a path."
            )
        return PathName(unquote(parts.path))
    if scheme in {"oci", "oci+http"}:
        repository, reference = split_reference(text)
        return ArtifactName(text, repository, reference or "latest")
    if scheme in {"s3", "gs", "az"}:
        raise UsageError(
            f"{text}: a bucket is a remote, not a model",
            hint="Set LLCUDA_STORAGE_URL to the address of the bucket, and name the model as it is called there.",
        )
    return _parse_url(text)


def _parse_unmarked(text: str, *, is_file: bool) -> ModelName:
    if is_file or text.startswith(("/", "./", "../", "~")):
        return PathName(text)
    host, slash, rest = text.partition("/")
    if slash and host.lower() in _HUB_HOSTS:
        return (
            _parse_url(f"https://{text}") if _HUB_FILE.fullmatch(f"/{rest}") else _parse_unmarked(rest, is_file=False)
        )
    repository, colon, suffix = text.partition(":")
    repository, _, revision = repository.partition("@")
    if _REPOSITORY.fullmatch(repository) and (colon or revision or not text.lower().endswith(".gguf")):
        return _parse_hub(repository, suffix, revision or "main")
    if "/" in text or text.lower().endswith(".gguf"):
        return PathName(text)
    return RegistryName(text)


def _parse_hub(repository: str, suffix: str, revision: str) -> HubName:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(f"{revision!r} is not a branch, a tag or a commit")
    if not suffix:
        return HubName(repository, revision=revision)
    if suffix.lower().endswith(".gguf"):
        return HubName(repository, file=check_file(suffix), revision=revision)
    if not _QUANTISATION.fullmatch(suffix):
        raise UsageError(
            f"{suffix!r} is neither a .gguf file nor a quantisation",
            hint=f"Write {repository}:Q4_K_M, or {repository}:FILE.gguf.",
        )
    return HubName(repository, quantisation=suffix, revision=revision)


def check_file(file: str) -> str:
    """Refuse what would leave the repository's folder in the cache, or cannot be a file's name. Raises UsageError."""
    parts = file.split("/")
    if "\\" in file or not file.isprintable() or len(file) > _MAX_FILE or any(not _is_part(part) for part in parts):
        raise UsageError(f"{file[:_MAX_PART]!r} is not the name of a file in a repository")
    return file


def _is_part(part: str) -> bool:
    return part not in {"", ".", ".."} and len(part.encode()) <= _MAX_PART


def _parse_url(text: str) -> ModelName:
    url, _, fragment = text.partition("#")
    parts = urlsplit(url)
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            f"{text}: only http://, https:// and oci:// addresses can be downloaded",
            hint="`llcuda storage get --storage-url …` gets a model from other places.",
        )
    path = unquote(parts.path)
    if parts.hostname in _HUB_HOSTS and (match := _HUB_FILE.fullmatch(path)):
        repository, revision, file = match.groups()
        if _REPOSITORY.fullmatch(repository) and file.lower().endswith(".gguf"):
            return _parse_hub(repository, file, revision)
    if parts.hostname in _HUB_HOSTS and (match := _HUB_PAGE.fullmatch(path)):
        repository, revision, suffix = match.groups()
        if _REPOSITORY.fullmatch(repository):
            return _parse_hub(repository, suffix or "", revision or "main")
    if not path.lower().endswith(".gguf"):
        raise UsageError(f"{text} is not the address of a .gguf file")
    digest = parse_digest(fragment.replace("=", ":", 1)) if fragment.startswith("sha256=") else None
    return UrlName(url, digest)


def list_part_urls(url: str) -> dict[str, str]:
    """Return the addresses of all parts of the model that ``url`` is a part of, by their file names."""
    parts = urlsplit(url)
    folder, _, file = parts.path.rpartition("/")
    return {
        part: parts._replace(path=f"{folder}/{quote(part)}").geturl() if part != unquote(file) else url
        for part in list_parts(unquote(file))
    }
