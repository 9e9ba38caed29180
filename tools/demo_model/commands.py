"""README: what each subcommand of `python -m tools.demo_model` does; torch is imported only by those that need it."""

# ruff: noqa: PLC0415 - torch and its company are imported by the commands that need them.

from __future__ import annotations

import hashlib
import json
import subprocess
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tools.demo_model.evaluate import Score, as_json, evaluate, format_scores
from tools.demo_model.server import find_binary, run_server

if TYPE_CHECKING:
    import argparse

SEED: Final = 20261
MODELS: Final = Path(__file__).resolve().parents[2] / "src/llcuda/models_data"
CARD: Final = MODELS / "demo.json"
TOKEN_SAMPLES: Final = Path(__file__).with_name("token_samples.json")
FILES: Final = {"main": ("demo.gguf", "llcuda demo", "F16"), "draft": ("demo-draft.gguf", "llcuda demo draft", "Q8_0")}
QUANTISATIONS: Final = ("Q8_0", "Q4_K_M")


def _chosen(options: argparse.Namespace) -> list[str]:
    return [name for name in FILES if options.model in {name, "both"}]


def write_data(options: argparse.Namespace) -> None:
    """Write the vocabulary, and a sample of the training text for reading."""
    from tools.demo_model.conversation import render_text
    from tools.demo_model.data import iterate_examples
    from tools.demo_model.tokenizer import load_tokenizer

    load_tokenizer()
    texts = (render_text(example) for example in islice(iterate_examples(SEED), 2000))
    (options.work / "sample.txt").write_text("\n".join(texts), encoding="utf-8")


def train(options: argparse.Namespace) -> None:
    """Train the chosen models from scratch."""
    import torch

    from tools.demo_model.tokenizer import load_tokenizer
    from tools.demo_model.train import RECIPES, train_model

    torch.set_num_threads(options.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    for name in _chosen(options):
        weights = options.work / f"{name}.pt"
        train_model(load_tokenizer(), RECIPES[name], device=device, save_to=weights, first_stage=options.from_stage)


def _export_one(name: str, folder: Path, *, options: argparse.Namespace) -> dict[str, Any]:
    from tools.demo_model.export import write_gguf
    from tools.demo_model.tokenizer import load_tokenizer
    from tools.demo_model.train import load_weights

    saved = load_weights(options.work / f"{name}.pt")
    file, title, kind = FILES[name]
    shape, weights = saved["shape"], saved["weights"]
    write_gguf(folder / file, weights, shape=shape, tokenizer=load_tokenizer(), name=title, kind=kind)
    size = {"parameters": sum(value.numel() for value in weights.values()), "quantisation": kind}
    return describe_file(folder / file) | size | {"vocabulary": shape.vocabulary, "context": shape.context}


def export(options: argparse.Namespace) -> None:
    """Write the chosen models as GGUF into the work folder; with --install into the package, with their digests."""
    folder = MODELS if options.install else options.work
    folder.mkdir(parents=True, exist_ok=True)
    facts = [_export_one(name, folder, options=options) for name in _chosen(options)]
    print(json.dumps(facts, indent=2))
    if options.install:
        _write_card({fact["file"]: fact for fact in facts}, figures=None)
        _write_token_samples()


def _write_card(models: dict[str, dict[str, Any]], *, figures: dict[str, Any] | None) -> None:
    """Update the package's demo.json; figures of an older file do not outlive it."""
    card = json.loads(CARD.read_text(encoding="utf-8")) if CARD.exists() else {"models": []}
    known = {fact["file"]: fact for fact in card["models"]} | models
    ordered = [known[file] for file, _, _ in FILES.values() if file in known]
    kept = figures if figures is not None else {}
    CARD.write_text(json.dumps({"models": ordered, "figures": kept}, indent=2) + "\n", encoding="utf-8")


def _write_token_samples() -> None:
    """Write what the reference tokenizer makes of many texts, for a test that has llama-server alone."""
    from tools.demo_model.tokenizer import load_tokenizer, sample_texts

    tokenizer = load_tokenizer()
    samples = [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in sample_texts(SEED)]
    lines = ",\n".join(json.dumps(sample, separators=(",", ":")) for sample in samples)
    TOKEN_SAMPLES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def describe_file(path: Path) -> dict[str, Any]:
    """Return a file's name, SHA-256 and size."""
    data = path.read_bytes()
    return {"file": path.name, "sha256": f"sha256:{hashlib.sha256(data).hexdigest()}", "bytes": len(data)}


def _quantise(source: Path, kind: str, *, options: argparse.Namespace) -> Path:
    target: Path = options.work.resolve() / f"{source.stem}-{kind}.gguf"
    binary = find_binary("llama-quantize", given=options.server)
    subprocess.run([binary, source, target, kind, "1"], check=True, capture_output=True, cwd=binary.parent)
    return target


def _measure(file: Path, *, options: argparse.Namespace) -> list[Score]:
    with run_server(file, binary=find_binary("llama-server", given=options.server)) as server:
        return evaluate(server, every_sum=not options.quick)


def evaluate_files(options: argparse.Namespace) -> None:
    """Measure the file at F16, Q8_0 and Q4_K_M through llama-server and print the table."""
    folder = options.work if options.work_files or (options.command == "all" and not options.install) else MODELS
    source = (folder / FILES["main"][0]).resolve()
    columns = {"F16": _measure(source, options=options)}
    for kind in QUANTISATIONS:
        columns[kind] = _measure(_quantise(source, kind, options=options), options=options)
    print(format_scores(columns))
    if options.json:
        options.json.write_text(as_json(columns) + "\n", encoding="utf-8")
    if folder == MODELS and not options.quick:
        figures = {
            kind: {score.task: [score.right, score.total] for score in scores} for kind, scores in columns.items()
        }
        _write_card({}, figures=figures)


def run(options: argparse.Namespace) -> None:
    """Run the chosen step, or every step in order."""
    options.work.mkdir(parents=True, exist_ok=True)
    steps = {"data": write_data, "train": train, "export": export, "evaluate": evaluate_files}
    for name, step in steps.items():
        if options.command in {name, "all"}:
            step(options)
