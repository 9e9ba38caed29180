"""Python keyword arguments -> llama-server's command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.server.free_memory import limit_prompt_cache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.server.failures import Launch

# A test compares these tables with what llama-server --help says.

# The contract's names for what llama-server calls otherwise.
_RENAMED = {"n_parallel": "parallel"}

# They take a word, not the presence of the flag.
_ON_OFF = frozenset({"fit", "fit_print", "flash_attn", "reasoning"})

# Flags without a --no- form: leaving them out is saying no.
_PLAIN = frozenset({
    "backend_sampling", "check_tensors", "cpu_moe", "cpu_moe_draft", "embedding", "embeddings", "ignore_eos",
    "lora_init_without_apply", "metrics", "no_host", "props", "rerank", "reranking", "spec_default",
    "spec_draft_cpu_moe", "special", "spm_infill", "swa_full",
})  # fmt: skip

# llama-server runs in another directory, so these are made absolute.
_PATHS = frozenset({
    "chat_template_file", "control_vector", "grammar_file", "json_schema_file", "log_prompts_dir",
    "lookup_cache_dynamic", "lookup_cache_static", "lora", "mcp_servers_config", "media_path", "mmproj", "model_draft",
    "path", "slot_save_path", "spec_draft_model", "ui_config_file", "video_ffmpeg_dir", "webui_config_file",
})  # fmt: skip
# One value whatever Python's sequence: llama-server takes `--tensor-split 3,1`, not `--tensor-split 3 1`.
_LISTS = frozenset({"tensor_split"})
_SCALED_PATHS = frozenset({"control_vector_scaled", "lora_scaled"})

_RESERVED = {
    **dict.fromkeys(("model", "host", "port", "api_key"), "it is an argument of start_server itself"),
    **dict.fromkeys(
        ("log_colors", "log_disable", "log_file", "log_jsonl", "log_prefix", "log_timestamps", "no_log_prefix",
         "no_log_timestamps", "verbose", "log_verbose"),
        "the log is read to know when llama-server is ready; use verbose=True or log_verbosity=4 to see more of it",
    ),
    **dict.fromkeys(
        ("api_key_file", "api_prefix", "cors_credentials", "cors_headers", "cors_methods", "cors_origins", "offline",
         "reuse_port", "ssl_cert_file", "ssl_key_file"),
        "llama-server is started for this process alone",
    ),
    **dict.fromkeys(
        ("docker_repo", "hf_file", "hf_repo", "hf_repo_draft", "hf_token", "mmproj_url", "model_url", "spec_draft_hf"),
        "llama-server downloads nothing here; give the path of a file, or load the model by its name",
    ),
    **dict.fromkeys(
        ("models_autoload", "models_dir", "models_max", "models_preset"), "one server runs one model"
    ),
    **dict.fromkeys(
        ("cache_list", "completion_bash", "help", "list_devices", "usage", "version"), "it starts no server"
    ),
}  # fmt: skip

_LEAST_VERBOSITY = 3
_LEAST = {"ctx_size": 0, "n_parallel": 1, "gpu_layers": -1, "threads": -1}
_TIMES = ("timeout", "stall_timeout")

_OF_VECTORS = ("embedding", "embeddings", "rerank", "reranking")
_USUAL_BATCH = 512
_LONGEST_TEXT = 8192  # that OpenAI's API makes a vector of; a batch of a model's whole context may take gigabytes


def build_arguments(**server_options: Any) -> list[str]:
    """Return the options as llama-server's arguments; a name is llama-server's own with ``_`` for ``-``.

    None leaves an option out. True and False become ``--flag`` and ``--no-flag``, or ``on`` and ``off`` if the option
    takes these. A list becomes one value, joined by llama-server's rule for lists; a tuple several values, but for
    ``tensor_split``. Relative paths are made absolute. Raises UsageError for a name that is not the caller's to set; a
    name that llama-server does not know is for llama-server to refuse.
    """
    arguments: list[str] = []
    for name, value in server_options.items():
        _check(name, value)
        if value is not None:
            arguments += _build_option(_RENAMED.get(name, name), value)
    return arguments


def build_own_arguments(launch: Launch) -> list[str]:
    """Return the arguments that are not the caller's to choose.

    The key is not among them, because every user of the machine can read a command line.
    """
    # A comma would make two hosts of a socket's path.
    place = ["--model", launch.model, "--host", _quote(launch.host), "--port", str(launch.port)]
    return [*place, "--offline", "--cors-origins", "localhost", "--log-colors", "off"]


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with what llcuda sets unless the caller says otherwise."""
    # The buffer lines, which say what is on a GPU, are printed from 4 on.
    verbosity = {} if options.keys() & {"verbosity", "log_verbosity"} else {"log_verbosity": 4}
    usual = {"ui": False, "metrics": True, "cache_ram": limit_prompt_cache()}
    return {**usual, **_size_batches(options), **verbosity, **options}


def _size_batches(options: dict[str, Any]) -> dict[str, Any]:
    """Let a server of vectors take texts as long as a slot's context: it computes each in one batch."""
    if not any(options.get(name) for name in _OF_VECTORS) or options.keys() & {"batch_size", "ubatch_size"}:
        return {}
    tokens = max(_USUAL_BATCH, (options.get("ctx_size") or _LONGEST_TEXT) // (options.get("n_parallel") or 1))
    return {"batch_size": tokens, "ubatch_size": tokens}


def check_numbers(options: Mapping[str, Any]) -> None:
    """Raise UsageError for a count or a time that llama-server would make nothing useful of."""
    for name, least in _LEAST.items():
        value = options.get(name)
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise UsageError(f"{name}={value!r} is not a whole number from {least} on")
    for name in _TIMES:
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise UsageError(f"{name}={value!r} is not a number of seconds", hint=f"Write {name}=60, or leave it out.")


def check_key(api_key: str | None) -> str:
    """Return the key that the server asks for: a random one, or the caller's.

    Raises UsageError for one that llama-server would take for none or for several, or that HTTP cannot carry.
    """
    if api_key is None:
        return os.urandom(24).hex()
    if not api_key or not api_key.isascii() or not api_key.isprintable() or set(api_key) & set(' ,"'):
        raise UsageError(
            "api_key must be printable ASCII without spaces, commas and quotes", hint="Leave it out for one."
        )
    return api_key


def _check(name: str, value: object) -> None:
    reason = _RESERVED.get(name) or _RESERVED.get(name.removeprefix("no_"))
    if reason:
        raise UsageError(f"the option {name} cannot be set: {reason}")
    if name in {"log_verbosity", "verbosity"} and isinstance(value, int) and value < _LEAST_VERBOSITY:
        raise UsageError(f"{name}={value} hides the line that says that llama-server is ready", hint="Use 3 or more.")


def _build_option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return _build_flag(name, flag, wanted=value)
    if isinstance(value, tuple) and name not in _LISTS:
        return [flag, *(_to_text(name, part) for part in value)]
    if isinstance(value, (list, tuple)):
        return [flag, ",".join(_quote(_to_text(name, part)) for part in value)]
    return [flag, _to_text(name, value)]


def _build_flag(name: str, flag: str, *, wanted: bool) -> list[str]:
    if name in _ON_OFF:
        return [flag, "on" if wanted else "off"]
    if wanted:
        return [flag]
    return [] if name in _PLAIN else [f"--no-{flag[2:]}"]


def _to_text(name: str, value: Any) -> str:
    if name in _PATHS or isinstance(value, os.PathLike):
        return _to_absolute(os.fspath(value))
    if name in _SCALED_PATHS:
        path, colon, scale = str(value).rpartition(":")
        return f"{_to_absolute(path)}:{scale}" if colon else _to_absolute(scale)
    return str(value)


def _to_absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links are kept as they are


def _quote(text: str) -> str:
    # The rule of parse_csv_row in llama.cpp's common/arg.cpp.
    return '"{}"'.format(text.replace('"', '""')) if "," in text or text.startswith('"') else text
