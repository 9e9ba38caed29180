"""Flags, variables and serve.toml: which of them holds, what is refused, and what is said then."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from llcuda.errors import UsageError
from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.config.checks import is_loopback, load_tls
from llcuda.gateway.config.key_files import MASK, parse_keys
from llcuda.gateway.config.model_names import name_model, place_model, split_model
from llcuda.gateway.config.plain_config import _format_value, format_toml, to_plain
from llcuda.gateway.config.reading import Given, make_config, read_config, read_given
from llcuda.gateway.config.serve_options import KEY_OPTIONS, MODEL_OPTIONS, OPTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEMO = {"model": ["demo"]}


def write(folder: Path, text: str, *, mode: int = 0o600, name: str = "serve.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def read(flags: Mapping[str, Any], **variables: str) -> GatewayConfig:
    return read_config(flags, environment={f"LLCUDA_SERVE_{name}": value for name, value in variables.items()})


def read_file(folder: Path, text: str, *, mode: int = 0o600) -> GatewayConfig:
    return read({"config": str(write(folder, text, mode=mode))})


def refused(flags: Mapping[str, Any], **variables: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(flags, **variables)
    assert caught.value.hint, "it says no remedy"
    return f"{caught.value} | {caught.value.hint}"


def refused_file(folder: Path, text: str, *, mode: int = 0o600) -> str:
    return refused({"config": str(write(folder, text, mode=mode))})


# What one row of the table comes to.


def test_every_field_of_the_configuration_can_be_said() -> None:
    for scope, left_out in ((GatewayConfig, {"models", "keys", "limits"}), (Limits, set()), (ModelConfig, {"remotes"})):
        options = MODEL_OPTIONS if scope is ModelConfig else OPTIONS
        said = {one.target for one in options if one.scope is scope}
        assert {one.name for one in dataclasses.fields(scope)} - left_out <= said
    assert {one.name for one in dataclasses.fields(KeyConfig)} <= {one.target for one in KEY_OPTIONS}


def test_no_two_options_have_one_name() -> None:
    for names in ([one.name for one in OPTIONS], [one.flag for one in OPTIONS], [one.variable for one in OPTIONS]):
        assert len(names) == len(set(names))


VALUES: dict[str, tuple[Any, str, Any]] = {
    "model": (["b=demo", "a"], "b=demo a", ["b=demo", "a"]),
    "workers": ("2,http://a:1", "2 http://a:1", [2, "http://a:1"]),
    "server_options": (["mlock", "tensor-split=3,1"], "mlock tensor-split=3,1", {"mlock": True, "tensor-split": "3,1"}),
    "allowed_hosts": (["a.example", "b:1"], "a.example 'b:1'", ["a.example", "b:1"]),
    "allowed_origins": (["https://a.example"], "https://a.example", ["https://a.example"]),
    "device": ("cuda:1", "cuda:1", "cuda:1"),
    "host": ("::1", "::1", "::1"),
    "on_demand": (True, "yes", True),
    "api_key_file": ("/k", "/k", "/k"),
    "tls_certificate": ("/c", "/c", "/c"),
    "tls_key": ("/c", "/c", "/c"),
    "audit_log": ("/a", "/a", "/a"),
    "strict_fields": (True, "yes", True),
    "otlp_endpoint": ("http://c:4318", "http://c:4318", "http://c:4318"),
    "gpu_bundle": ("https://files.example/x", "https://files.example/x", "https://files.example/x"),
}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_flag_variable_and_key_say_the_same(option: Any, tmp_path: Path) -> None:
    number = 2048 if option.kind == "count" else 2.5
    if option.name == "max_headers":
        number = 99
    if option.name in {"workers", "slots"}:
        number = 7
    flag, variable, key = VALUES.get(option.name, (str(number), str(number), number))
    path = write(tmp_path, f"{option.name} = {to_toml(key)}\n" + ("" if option.name == "model" else "model = 'demo'"))
    base = {} if option.name == "model" else DEMO
    said = [
        read_given({**base, option.name: flag}, environment={}),
        read_given(base, environment={option.variable: variable}),
        read_given({"config": str(path)}, environment={}),
    ]
    assert said[0] == said[1] == said[2]
    assert said[0] != read_given({}, environment={})


def to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {to_toml(entry)}" for name, entry in value.items()) + "}"
    return json.dumps(value)


def test_a_flag_wins_over_a_variable_and_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, "model = 'demo'\nworkers = 3\nslots = 3\nctx_size = 3\nport = 3\nmax_queued = 3")
    config = read({"config": str(path), "workers": "1", "port": "1"}, WORKERS="2", SLOTS="2", PORT="2")
    (model,) = config.models
    assert (model.workers, model.slots, model.ctx_size, model.threads) == (1, 2, 3, None)
    assert (config.port, config.limits.max_queued, config.limits.max_connections) == (1, 3, 4096)


def test_what_stands_at_a_model_wins_over_what_stands_for_all_and_a_flag_over_both(tmp_path: Path) -> None:
    text = "workers = 2\nslots = 2\n[[models]]\nname='a'\nmodel='demo'\nworkers = 3\n[[models]]\nname='b'\nmodel='demo'"
    path = str(write(tmp_path, text))
    assert [(one.workers, one.slots) for one in read({"config": path}).models] == [(3, 2), (2, 2)]
    assert [one.workers for one in read({"config": path, "workers": "5"}).models] == [5, 5]


def test_models_of_the_command_line_take_the_place_of_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, "workers = 2\n[[models]]\nname='a'\nmodel='demo'\nslots=9")
    config = read({"config": str(path), "model": ["c=demo", "demo-draft"]})
    assert [(one.name, one.model, one.workers, one.slots) for one in config.models] == [
        ("c", "demo", 2, 4),
        ("demo-draft", "demo-draft", 2, 4),
    ]


def test_nothing_said_is_the_defaults() -> None:
    assert read(DEMO) == GatewayConfig((ModelConfig("demo", "demo"),))


def test_an_empty_variable_is_none() -> None:
    assert read(DEMO, WORKERS="", API_KEY="", CONFIG="") == read(DEMO)


def test_the_variable_names_the_file_where_no_flag_does(tmp_path: Path) -> None:
    path = write(tmp_path, "model = 'demo'\nport = 7")
    assert read({}, CONFIG=str(path)).port == 7
    assert read({"config": str(write(tmp_path, "model = 'demo'", name="b.toml"))}, CONFIG=str(path)).port == 8090


def test_a_path_in_a_file_starts_at_the_file(tmp_path: Path) -> None:
    text = "audit_log = 'log/a'\n[[models]]\nmodel = './m/x.gguf'\n[[models]]\nmodel='own/er:Q4_K_M'"
    config = read_file(tmp_path, text)
    assert config.audit_log == tmp_path / "log" / "a"
    assert [(one.name, one.model) for one in config.models] == [
        ("x", str(tmp_path / "m" / "x.gguf")),
        ("own/er:Q4_K_M", "own/er:Q4_K_M"),
    ]
    assert read_file(tmp_path, "model = ['a=x.gguf']").models[0].model == str(tmp_path / "x.gguf")


# Names.


@pytest.mark.parametrize(
    ("text", "name", "model"),
    [
        ("demo", "", "demo"),
        ("a=demo", "a", "demo"),
        ("llama3:8b=/x.gguf", "llama3:8b", "/x.gguf"),
        ("a=b=c", "a", "b=c"),
        ("/models/x=y.gguf", "", "/models/x=y.gguf"),
        ("./x=y.gguf", "", "./x=y.gguf"),
        ("https://a.example/x.gguf#sha256=00", "", "https://a.example/x.gguf#sha256=00"),
        ("a=https://a.example/x.gguf?b=c", "a", "https://a.example/x.gguf?b=c"),
        ("=demo", "", "=demo"),
        ("a=", "", "a="),
    ],
)
def test_a_name_stands_before_the_model(text: str, name: str, model: str) -> None:
    assert split_model(text) == (name, model)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("gemma-3-1b-Q4_K_M", "gemma-3-1b-Q4_K_M"),
        ("/models/My Model.GGUF", "My Model"),
        ("x-00001-of-00003.gguf", "x"),
        ("unsloth/gemma:gemma-3-1b-it-Q4_K_M.gguf", "gemma-3-1b-it-Q4_K_M"),
        ("unsloth/gemma:Q4_K_M", "unsloth/gemma:Q4_K_M"),
        ("https://a.example/b/x%20y.gguf?download=true", "x y"),
    ],
)
def test_a_model_without_a_name_is_called_after_its_file(model: str, name: str) -> None:
    assert name_model(model) == name


def test_only_a_path_is_placed(tmp_path: Path) -> None:
    assert place_model("demo", tmp_path) == "demo"
    assert place_model("/x.gguf", tmp_path) == "/x.gguf"
    assert place_model("../x.gguf", tmp_path) == f"{tmp_path}/../x.gguf"


# What is refused: every message says where, and what to do.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wrokers = 2", "serve.toml: the key wrokers is not known | Did you mean workers"),
        ("keepalive_timeout = 2", "keep_alive_timeout"),
        ("zzz = 2", "There are model, workers"),
        ("[limits]\nmax_queued = 2", "the key limits is not known"),
        ("port = " + "1" * 5000, "serve.toml is not TOML: a number has too many digits, or it is nested too deeply"),
        ("port = " + "[" * 100_000, "serve.toml is not TOML"),
        ("port = 0x" + "f" * 5000, "port: a number of thousands of digits is not a whole number"),
        ("port = [0x" + "f" * 5000 + "]", "port: a number of thousands of digits is not a whole number"),
        ("grace_timeout = 0x" + "f" * 5000, "grace_timeout: a number of thousands of digits is not a time"),
        ("server_options = { x = 0x" + "f" * 5000 + " }", "x: a number of thousands of digits is no value"),
        ("server_options = { x = 0xffffffffffffffffff }", "4722366482869645213695 is no value of an option"),
        ("config = 'x'", "the key config is not known"),
        ("workers = '2'", "serve.toml: workers: '2' is not a whole number | workers is a number without a unit"),
        ("workers = []", "workers names one twice, or none"),
        ("workers = [2, 3]", "workers names one twice, or none"),
        ("workers = ['http://a:1', 'http://a:1']", "workers names one twice, or none"),
        ("workers = [{ uri = 'http://a:1' }]", "is not a whole number | workers is a number without a unit, http://HOST"),
        ("workers = [{ url = 'http://a:1', key = 'k' }]", "is not a whole number | workers is a number without a unit, http://HOST"),
        ("workers = ['ftp://a:1']", "'ftp://a:1' is not an http or https address | Write http://, https:// or dns://"),
        ("workers = ['http://me:secret@a:1']", "workers: an address has no user name"),
        ("workers = [{ url = 'http://a:1', key_file = '/none' }]", "/none cannot be read: No such file"),
        ("workers = 2.0", "2.0 is not a whole number"),
        ("workers = true", "True is not a whole number"),
        ("workers = 0", "workers: 0 is out of range | workers is from 1 to 256."),
        ("workers = -1", "out of range"),
        ("ctx_size = 0", "ctx_size is at least 1."),
        ("port = 65536", "port is from 0 to 65535"),
        ("max_body_bytes = '8MiB'", "'8MiB' is not a whole number | max_body_bytes is a number without a unit"),
        ("grace_timeout = '30s'", "'30s' is not a time | grace_timeout is a number of seconds, such as 30."),
        ("grace_timeout = 0", "0 is not more than nothing"),
        ("grace_timeout = -1.5", "-1.5 is not more than nothing"),
        ("grace_timeout = inf", "inf is not a time"),
        ("grace_timeout = nan", "nan is not a time"),
        ("on_demand = 1", "1 is neither true nor false"),
        ("host = 1", "host is not a text"),
        ("host = ''", "host is not a text"),
        ('host = "a\\u0000b"', "host is not a text of printable characters"),
        ("device = 'gpu'", "'gpu' is not a device (model demo) | It is auto, cuda, cuda:N or cpu."),
        ("device = 'cuda:'", "is not a device"),
        ("allowed_hosts = 3", "3 is not a list of texts"),
        ("allowed_hosts = [3]", "allowed_hosts is not a text"),
        ("allowed_hosts = ['http://a.example']", "'http://a.example' is not an allowed host"),
        ("allowed_hosts = ['*']", "'*' is not an allowed host"),
        ("allowed_origins = ['*']", "'*' is not an origin | Write https://app.example.com"),
        ("allowed_origins = ['null']", "'null' is not an origin"),
        ("allowed_origins = ['https://a.example/']", "is not an origin"),
        ("allowed_origins = ['a.example']", "is not an origin"),
        ("server_options = 'x'", "server_options is not a table"),
        ("server_options = { port = 3 }", "the option port cannot be set"),
        ("server_options = { api-key = 'x' }", "the option api_key cannot be set"),
        ("server_options = { parallel = 3 }", "parallel is not a server option here (model demo) | Set slots instead."),
        ("server_options = { x = 1979-05-27 }", "server_options.x: datetime.date(1979, 5, 27) is no value"),
        ("server_options = { x = { y = 1 } }", "is no value of an option"),
        ("server_options = { x = inf }", "is no value of an option"),
        ('server_options = { x = "a\\nb" }', "server_options.x has characters that cannot be printed"),
        ("server_options = { '' = 1 }", "'' is no name of an option"),
        ("server_options = { '--a b' = 1 }", "'--a b' is no name of an option"),
        ("tls_certificate = '/c.pem'", "TLS needs a certificate and its key"),
        ("tls_certificate = '/no/c.pem'\ntls_key = '/no/k.pem'", "/no/c.pem cannot be read: No such file"),
        ("models = 3", "models is not a list of tables | Write [[models]] above each."),
        ("[models]\nmodel = 'demo'", "models is not a list of tables"),
        ("[[models]]\nmodel = 'demo'", "both model and [[models]]"),
        ("[[keys]]\nkey = 'sk-secret'", "[[keys]] 1 has no name"),
        ("[[keys]]\nname = 'a'", "has not one of key and key_file"),
        ("[[keys]]\nname = 'a'\nkey = 'k'\nkey_file = 'f'", "has not one of key and key_file"),
        ("[[keys]]\nname = 'a'\nkey_file = 'f'", "f cannot be read: No such file"),
        ("[[keys]]\nname = 'a'\nkey = 'sk-secret'\nadmn = true", "1: the key admn is not known | Did you mean admin?"),
        ("[[keys]]\nname = 'a'\nkey = 'sk-secret'\nadmin = 'yes'", "admin: 'yes' is neither true nor false"),
        ("[[keys]]\nname = 'a'\nkey = 'sk-secret'\npriority = 200", "priority is from -100 to 100"),
        ("[[keys]]\nname = 'a'\nkey = 'sk secret'", "[[keys]] 1: a key is printable ASCII"),
        ("[[keys]]\nname = 'a'\nkey = '********'", "the key is masked | Put the key in its place"),
        ("[[keys]]\nname='a'\nkey='k1'\n[[keys]]\nname='a'\nkey='k2'", "two keys are called a"),
        ("[[keys]]\nname='a'\nkey='k1'\n[[keys]]\nname='b'\nkey='k1'", "two names have the same key"),
        ("host = '0.0.0.0'", "other machines can reach 0.0.0.0, and there is no key | Set LLCUDA_SERVE_API_KEY"),
        ("this is not toml", "serve.toml is not TOML: "),
        ("port = 1\nport = 2", "serve.toml is not TOML: "),
    ],
)
def test_a_file_that_is_wrong_says_where_and_what_to_do(text: str, said: str, tmp_path: Path) -> None:
    message = refused_file(tmp_path, f"model = 'demo'\n{text}")
    assert said in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no model is named | Add -m demo"),
        ("model = []", "no model is named"),
        ("model = ['demo', 'demo']", "two models are called demo | Name each"),
        ("model = ['']", "model is not a text"),
        ("[[models]]\nname = 'a'", "[[models]] 1 has no model"),
        ("[[models]]\nmodel = 'demo'\nport = 3", "[[models]] 1: the key port is not known"),
        ("[[models]]\nmodel = 'ftp://a.example/x.gguf'", "only http://, https:// and oci://"),
        (f"[[models]]\nmodel = 'demo'\nname = '{'x' * 300}'", "is too long"),
    ],
)
def test_models_that_are_wrong_are_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_file(tmp_path, text)
    assert said in f"{caught.value} | {caught.value.hint}"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused({"config": str(tmp_path / "missing.toml")})
    assert "cannot be read: Is a directory" in refused({"config": str(tmp_path)})
    (tmp_path / "latin").write_bytes(b"host = '\xe4'")
    assert "latin is not TOML" in refused({"config": str(tmp_path / "latin")})


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        ({"workers": "two"}, {}, "--workers: 'two' is not a whole number"),
        ({"grace_timeout": "1m"}, {}, "--grace-timeout: '1m' is not a time"),
        ({"server_options": ["=3"]}, {}, "--server-option: '=3' has no name"),
        ({"allowed_origins": ["*"]}, {}, "'*' is not an origin"),
        ({}, {"WORKERS": "two"}, "LLCUDA_SERVE_WORKERS: 'two' is not a whole number"),
        ({}, {"WORKERS": "300"}, "LLCUDA_SERVE_WORKERS: 300 is out of range"),
        ({}, {"ON_DEMAND": "perhaps"}, "LLCUDA_SERVE_ON_DEMAND: 'perhaps' is neither"),
        ({}, {"ALLOWED_HOSTS": "'a"}, "LLCUDA_SERVE_ALLOWED_HOSTS: No closing quotation"),
        ({}, {"WORKRES": "2"}, "the variable LLCUDA_SERVE_WORKRES is not known | Did you mean LLCUDA_SERVE_WORKERS"),
        ({}, {"PORT": "tcp://10.0.0.1:8090"}, "LLCUDA_SERVE_PORT: 'tcp://10.0.0.1:8090' is not a whole number"),
        ({}, {"API_KEY": "sk secret"}, "LLCUDA_SERVE_API_KEY: a key is printable ASCII"),
        ({}, {"API_KEY": "sk-secret\n"}, "LLCUDA_SERVE_API_KEY: a key is printable ASCII"),
        ({}, {"API_KEY": "s" * 257}, "at most 256 characters"),
    ],
)
def test_flags_and_variables_that_are_wrong_say_which(
    flags: dict[str, Any], variables: dict[str, str], said: str
) -> None:
    message = refused({**DEMO, **flags}, **variables)
    assert said in message
    assert "secret" not in message


# Keys.


def test_keys_of_all_places_hold_together(tmp_path: Path) -> None:
    write(tmp_path, "sk-alone\n", name="alone")
    file = write(tmp_path, "# ours\n\nann:sk-ann\n sk-plain \n", name="keys")
    text = (
        "model = 'demo'\n[[keys]]\nname = 'root'\nkey = 'sk-root'\nadmin = true\npriority = -3\nmax_in_flight = 2\n"
        "[[keys]]\nname = 'other'\nkey_file = 'alone'"
    )
    config = read({"config": str(write(tmp_path, text)), "api_key_file": str(file)}, API_KEY="sk-variable")
    assert config.keys == (
        KeyConfig("root", "sk-root", is_admin=True, priority=-3, max_in_flight=2),
        KeyConfig("other", "sk-alone"),
        KeyConfig("ann", "sk-ann"),
        KeyConfig("key4", "sk-plain"),
        KeyConfig("environment", "sk-variable"),
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_file_of_keys_that_others_can_have_is_refused(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path, "sk-secret", mode=mode, name="keys")
    message = refused({**DEMO, "api_key_file": str(path)})
    assert message == f"{path} holds keys, and others can read it | chmod 600 {path}"


def test_a_serve_toml_with_a_key_is_private_too_and_one_without_need_not_be(tmp_path: Path) -> None:
    read_file(tmp_path, "model = 'demo'", mode=0o644)
    assert "chmod 600" in refused_file(tmp_path, "model='demo'\n[[keys]]\nname='a'\nkey='sk-secret'", mode=0o644)
    key = write(tmp_path, "sk-secret", name="key")
    read_file(tmp_path, f"model='demo'\n[[keys]]\nname='a'\nkey_file='{key}'", mode=0o644)
    key.chmod(0o644)
    assert "chmod 600" in refused_file(tmp_path, f"model='demo'\n[[keys]]\nname='a'\nkey_file='{key}'")


@pytest.mark.parametrize("text", ["sk secret", "a:", ":sk-secret", "a:sk,secret", 'a:"sk-secret"', "a:sk-s\u00e9cret"])
def test_a_line_that_is_no_key_is_refused_without_being_repeated(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"sk-fine\n{text}", name="keys")
    message = refused({**DEMO, "api_key_file": str(path)})
    assert f"{path}, line 2" in message
    assert "secret" not in message


def test_a_key_may_have_a_colon_after_its_name() -> None:
    assert parse_keys("ann:a:b", place="keys") == (KeyConfig("ann", "a:b"),)


@pytest.mark.parametrize("content", ["", "\n# nothing\n"])
def test_a_file_without_keys_is_refused(content: str, tmp_path: Path) -> None:
    path = write(tmp_path, content, name="keys")
    assert "has no key" in refused({**DEMO, "api_key_file": str(path)})


def test_a_file_of_keys_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "", name="keys")
    path.write_bytes(b"\xff\xfe")
    assert "is not a text" in refused({**DEMO, "api_key_file": str(path)})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert read({**DEMO, "host": host}).keys == ()


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.0.2", "10.0.0.1", "fe80::1", "::2", "myhost", "localhost.example",  # noqa: S104
     "127.1", "0", "*", "127.0.0.1.nip.io", "[::1]"],
)  # fmt: skip
def test_every_other_address_needs_one(host: str) -> None:
    assert not is_loopback(host)
    assert f"other machines can reach {host}, and there is no key" in refused({**DEMO, "host": host})
    assert read({**DEMO, "host": host}, API_KEY="sk-a").host == host


def test_no_configuration_shows_its_keys() -> None:
    given = read_given(DEMO, environment={"LLCUDA_SERVE_API_KEY": "sk-secret"})
    assert "secret" not in repr(given)
    assert "secret" not in repr(make_config(given))


# TLS.


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    for name in ("a", "b"):
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        subprocess.run(
            [*command.split(), "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
            check=True,
            capture_output=True,
        )
    command = "openssl pkey -aes128 -passout pass:secret"
    subprocess.run(
        [*command.split(), "-in", folder / "a.key", "-out", folder / "locked.key"], check=True, capture_output=True
    )
    (folder / "empty").touch()
    return folder


def test_a_certificate_with_its_key_is_loaded(pem: Path) -> None:
    config = read({**DEMO, "tls_certificate": str(pem / "a.pem"), "tls_key": str(pem / "a.key")})
    assert load_tls(config.tls_certificate, config.tls_key) is not None
    assert load_tls(None, None) is None


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("a.pem b.key", "key values mismatch"),
        ("a.key a.pem", "cannot be used"),
        ("empty a.key", "cannot be used"),
        ("a.pem empty", "cannot be used"),
        ("a.pem locked.key", "has a password"),
        ("a.pem missing", "missing cannot be read: No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(pem: Path, pair: str, said: str) -> None:
    certificate, key = (str(pem / name) for name in pair.split())
    assert said in refused({**DEMO, "tls_certificate": certificate, "tls_key": key})


# What holds, as a file.


def make_given(folder: Path) -> Given:
    keys = write(folder, "ann:sk-ann", name="keys")
    text = (
        "port = 0\nhost = '0.0.0.0'\nallowed_origins = ['https://a.example']\nmax_queued = 3\napi_key_file = 'keys'\n"
        "audit_log = \"a 'quoted' \\\" log\"\n"
        "[[models]]\nname = 'a'\nmodel = 'demo'\n"
        "server_options = { cache-type-k = 'q8_0', mlock = true, a = [1, 0.5] }\n"
        "[[models]]\nname = 'b'\nmodel = 'x.gguf'\nunload_after = 3\nctx_size = 512\non_demand = true\n"
        f"[[keys]]\nname = 'other'\nkey_file = '{keys.with_name('other')}'\npriority = 2\n"
    )
    write(folder, "sk-other", name="other")
    return read_given({"config": str(write(folder, text))}, environment={"LLCUDA_SERVE_API_KEY": "sk-variable"})


def test_what_is_printed_is_a_file_that_comes_to_the_same(tmp_path: Path) -> None:
    given = make_given(tmp_path)
    config = make_config(given)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = write(elsewhere, format_toml(given, config))
    assert read({"config": str(printed)}, API_KEY="sk-variable") == config


@for_all(
    st.text(min_size=1).filter(str.isprintable)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
)
def test_every_value_is_read_as_it_was_printed(value: object) -> None:
    document = tomllib.loads(f"x = {_format_value(value)}\ny = {_format_value({'a': [value]})}")
    assert document == {"x": value, "y": {"a": [value]}}
    assert type(document["x"]) is type(value)


def test_no_key_is_printed(tmp_path: Path) -> None:
    given = make_given(tmp_path)
    with_key = dataclasses.replace(given, keys=(*given.keys, {"name": "plain", "key": "sk-plain"}))
    config = make_config(with_key)
    for printed in (format_toml(with_key, config), json.dumps(to_plain(with_key, config))):
        assert "sk-" not in printed
        assert MASK in printed
    assert format_toml(with_key, config).startswith("# Besides the keys below, the one in LLCUDA_SERVE_API_KEY holds.")


def test_a_printed_key_is_not_taken_for_a_key(tmp_path: Path) -> None:
    given = read_given(
        {"config": str(write(tmp_path, "model='demo'\n[[keys]]\nname='a'\nkey='sk-a'"))}, environment={}
    )
    assert "the key is masked" in refused_file(tmp_path, format_toml(given, make_config(given)))
