"""Why what passes at a bare llama-server need not pass through the gateway, by the names of the tests."""

from __future__ import annotations

_HERE = "no tool runs on the gateway's machine, and nothing is asked for a client (/tools, /cors-proxy)"
_ORIGINS = "a page of another origin is let in by allowed_origins alone, and told so with 403"
_FIGURES = "the figures are the gateway's, with each worker's under its name, and always there"
_SLOT = "the gateway chooses the slot, and refuses id_slot"
_STARTED = "the option is a bare server's: {}"

DIFFERENCES: dict[str, str] = {
    "test_basic.py::test_server_model_aliases_and_tags": "a model has one name and aliases, and an entry for each",
    "test_basic.py::test_server_models": "aliases are listed, so that clients that look for a name find it",
    "test_basic.py::test_server_multiple_addresses": _STARTED.format("one host is listened on"),
    "test_basic.py::test_server_props": "no path of the machine is shown",
    "test_basic.py::test_server_slots": _STARTED.format("the slots of all workers are always shown"),
    "test_chat_completion.py::test_chat_completions_multiple_choices": _SLOT,
    "test_chat_completion.py::test_context_size_exceeded*": "the error has OpenAI's type and code",
    "test_chat_completion.py::test_invalid_chat_completion_req*": "turns of one role that follow each other are joined",
    "test_chat_completion.py::test_verbose_debug": "verbose would show inner values, and is refused",
    "test_compat_anthropic.py::test_anthropic_empty_messages": "Anthropic's API refuses it, too",
    "test_compat_gcp.py::*": "Google's /predict is not served",
    "test_kv_keep_only_active.py::test_clear_and_restore": "the worker's log is not the gateway's output",
    "test_kv_keep_only_active.py::test_disabled_with_flag": _SLOT,
    "test_mcp_servers.py::*": _HERE,
    "test_metrics.py::*": _FIGURES,
    "test_proxy.py::*": _HERE,
    "test_router.py::test_router_delete_model": "models are chosen at the start, and none is deleted by a request",
    "test_router.py::test_router_props": _STARTED.format("the models are in the configuration"),
    "test_security.py::test_cors_*": _ORIGINS,
    "test_sleep.py::*": "an idle model is unloaded by unload_after, and /props tells nothing of sleep",
    "test_tools_builtin.py::*": _HERE,
}
