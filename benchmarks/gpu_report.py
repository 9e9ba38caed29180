"""The report of benchmarks/gpu.py as tables in Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["render"]


def render(report: dict[str, Any]) -> str:
    """Return the report; what has no result yet is left out."""
    results = {name: entry["result"] for name, entry in report["steps"].items() if "result" in entry}
    lines = [*_machine(report), *_build(results), *_tests(results), *_speed(results, report["options"])]
    lines += [*_memory(results), *_bundle(results), *_starts(results), *_cublas(results), *_rest(report)]
    return "\n".join(lines) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield a table and an empty line after it."""
    columns = list(head)
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"  # noqa: PLR2004 - four digits of any size
    return str(value).replace("|", "/").replace("\n", " ")


def _machine(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield "# llcuda on a GPU"
    yield ""
    for gpu in machine["gpus"]:
        facts = [gpu["name"], gpu["memory.total"], f"compute capability {gpu['compute_cap']}"]
        yield f"- GPU: {', '.join(facts)}, driver {gpu['driver_version']}, persistence mode {gpu['persistence_mode']}"
    if not machine["gpus"]:
        yield "- GPU: none"
    size = f"{machine['cores']} cores, {machine['memory_gib']} GiB"
    yield f"- CPU: {machine['cpu']}, {size}, load {machine['load']:.1f} at the start"
    yield f"- Linux {machine['kernel']}, Python {machine['python']}"
    yield f"- Options: {', '.join(f'{name} {value}' for name, value in report['options'].items())}"


def _build(results: dict[str, Any]) -> Iterator[str]:
    for build in results.get("install", {}).values():
        backends = ", ".join(map(_backend, build["backends"])) or "no CUDA backend"
        yield f"- llama.cpp {build['llama_cpp']}; {backends}; wheel {build['wheel']} {build.get('sha256', '')}"
    yield ""


def _backend(backend: dict[str, Any]) -> str:
    facts = f"toolkit {backend['toolkit']}, {' '.join(backend['architectures'])}, {backend['bytes']} bytes"
    return f"{backend['name']} ({facts}, compression {backend['compression']})"


def _tests(results: dict[str, Any]) -> Iterator[str]:
    if "tests" in results:
        yield f"tests/gpu: {results['tests']['summary']}"
        yield from (f"- {line}" for line in results["tests"]["failed"])
        yield ""


def _speed(results: dict[str, Any], options: dict[str, str]) -> Iterator[str]:
    bandwidth = results.get("bandwidth", {})
    rows = []
    for name, result in results.items():
        if name.startswith("speed "):
            rows += list(_speed_rows(name.removeprefix("speed "), result, bandwidth))
    for name, result in results.get("cpu", {}).items():
        rows += list(_speed_rows(f"{name}, CPU", result, {}))
    if not rows:
        return
    yield f"## Tokens/s on {options['device']}: medians; the ratio is the median of those within a round"
    yield ""
    if bandwidth:
        datasheet, copy = (_cell(bandwidth[key]) for key in ("datasheet_gbps", "copy_gbps"))
        yield f"Memory of the GPU: {datasheet} GB/s by the datasheet, {copy} GB/s in a copy (read + written)."
        yield ""
    head = ("model", "test", "llama-bench", "engine", "engine/llama-bench", "by the server's clock")
    yield from table((*head, "GB/s of weights", "of the datasheet", "of the copy"), rows)


def _speed_rows(name: str, result: dict[str, Any], bandwidth: dict[str, Any]) -> Iterator[list[Any]]:
    for kind in ("prompt", "decode"):
        ours = result["engine"][kind]
        row = [name, kind, result["llama-bench"][kind], ours, result["ratio"][kind]]
        row.append(result["ratio"][f"{kind} by the server"] if kind == "decode" else None)
        rate = result["weights_read_bytes"] * ours / 1e9 if kind == "decode" else None
        yield [*row, rate, *(_share(rate, bandwidth.get(key)) for key in ("datasheet_gbps", "copy_gbps"))]


def _share(rate: float | None, of: float | None) -> str | None:
    return f"{100 * rate / of:.1f} %" if rate and of else None


def _bundle(results: dict[str, Any]) -> Iterator[str]:
    if "bundle" in results:
        one, proof = results["bundle"], results["bundle"]["proof"]
        yield "## A bundle, installed and proved"
        yield ""
        on = f"on {', '.join(proof['gpus'])}, {proof['layers_on_gpu']} layers" if proof["gpus"] else "on the CPU"
        speed = f"{proof['tokens_per_sec']} tokens/s (CPU: {proof['cpu_tokens_per_sec']})"
        yield f"{one['bundle']}, {one['bytes']:,} bytes: {one['install_s']:.2f} s; the demo model {on}, {speed}"
        yield ""


def _memory(results: dict[str, Any]) -> Iterator[str]:
    if "memory" in results:
        yield "## Memory back at the baseline"
        yield ""
        rows = [[way, one["held_mib"], one["back_ms"], one["left_mib"]] for way, one in results["memory"].items()]
        yield from table(("way to end", "held MiB", "back after ms", "left MiB"), rows)


def _starts(results: dict[str, Any]) -> Iterator[str]:
    if "start" not in results:
        return
    yield "## Start: milliseconds from load_model to ready, and to the first token; medians, and the first start"
    yield ""
    rows = []
    for wheel, models in results["start"].items():
        backends = results["install"][wheel]["backends"]
        compression = ", ".join(f"{one['name']}: {one['compression']}" for one in backends) or "-"
        for model, starts in models.items():
            medians = [statistics.median(one[key] for one in starts) for key in ("ready_ms", "first_token_ms")]
            rows.append([model, wheel, compression, *medians, starts[0]["ready_ms"]])
    yield from table(("model", "install", "compression", "ready", "first token", "ready, first time"), rows)


def _cublas(results: dict[str, Any]) -> Iterator[str]:
    if "cublas" in results:
        yield "## With cuBLAS in reach and without"
        yield ""
        keys = ("model", "flash_attention", "cublas", "opened", "prompt", "decode", "refused")
        rows = [[row.get(key) for key in keys] for row in results["cublas"]]
        yield from table(("model", "FlashAttention", "cuBLAS", "opened", "prompt", "decode", "refused"), rows)


def _rest(report: dict[str, Any]) -> Iterator[str]:
    for name, entry in report["steps"].items():
        if "error" in entry:
            yield f"- {name} failed: {_cell(entry['error'])}"
    for name, why in report["dropped"].items():
        yield f"- {name} was dropped: {why}"
    times = ", ".join(f"{name} {entry['seconds']:.0f}" for name, entry in report["steps"].items())
    yield f"- seconds: {times}"
