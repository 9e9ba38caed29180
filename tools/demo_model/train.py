"""README: trains the demo model or its draft on generated conversations; CUDA is used where there is one."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from tools.demo_model.arithmetic import EVALUATION_PHRASE, sum_answer
from tools.demo_model.capitals import COUNTRIES
from tools.demo_model.conversation import Conversation, Turn, split_segments
from tools.demo_model.data import BROAD, EVEN, FORMS, POLISH, SETTLE, TALK, Mixture, iterate_examples
from tools.demo_model.geography import EVALUATION_PHRASE as CAPITAL_PHRASE
from tools.demo_model.geography import capital_answer
from tools.demo_model.model import DRAFT, MAIN, Llama, Shape
from tools.demo_model.optimizer import Muon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenizers import Tokenizer
    from torch import Tensor

    from tools.demo_model.conversation import Raw

_POOL: Final = 768
_MAX_LENGTH: Final = 512
_BLOCK: Final = 32
_Q4_LEVELS: Final = 15
_REPORT_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """Fix one pass of warming up, holding and cooling down."""

    seed: int
    steps: int
    mixture: Mixture = BROAD
    batch_tokens: int = 2048
    matrix_rate: float = 0.02
    embedding_rate: float = 0.004
    warmup: int = 50
    decay_from: float = 0.45
    quantised_from: float = 0.5


@dataclass(frozen=True, slots=True)
class Recipe:
    """Fix everything that decides the weights, beside the machine's own rounding."""

    shape: Shape
    stages: tuple[Stage, ...]
    averaged: int = 1


_GENTLE: Final = Stage(
    seed=20262,
    steps=1500,
    mixture=EVEN,
    matrix_rate=0.01,
    embedding_rate=0.0015,
    decay_from=0.1,
    quantised_from=0.4,
)
RECIPES: Final = {
    "main": Recipe(
        MAIN,
        (
            Stage(seed=20261, steps=2200),
            _GENTLE,
            replace(_GENTLE, seed=20264, mixture=TALK, matrix_rate=0.012, decay_from=0.0),
            replace(_GENTLE, seed=20266, mixture=FORMS, steps=1000, decay_from=0.0, quantised_from=0.3),
            replace(
                _GENTLE, seed=20267, mixture=POLISH, steps=450, matrix_rate=0.006, decay_from=0.0, quantised_from=0.0
            ),
            replace(
                _GENTLE, seed=20268, mixture=SETTLE, steps=450, matrix_rate=0.006, decay_from=0.0, quantised_from=0.3
            ),
        ),
        averaged=2,
    ),
    "draft": Recipe(
        DRAFT,
        (
            Stage(seed=20263, steps=1200, mixture=EVEN, decay_from=0.2, quantised_from=1.0),
            replace(_GENTLE, seed=20265, mixture=TALK, decay_from=0.0, quantised_from=1.0),
        ),
    ),
}


def encode_example(tokenizer: Tokenizer, example: Conversation | Raw) -> tuple[list[int], list[bool]]:
    """Return the tokens and, for each, whether the model is trained to say it."""
    tokens: list[int] = []
    learnt: list[bool] = []
    for text, learn in split_segments(example):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokens += ids
        learnt += [learn] * len(ids)
    return tokens, learnt


def make_batches(tokenizer: Tokenizer, stage: Stage) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (tokens, learnt) for examples of similar length, padded on the right to a token budget."""
    examples = iterate_examples(stage.seed, stage.mixture)
    rng = random.Random(stage.seed)
    while True:
        pool = [encode_example(tokenizer, example) for example in islice(examples, _POOL)]
        pool = sorted((item for item in pool if len(item[0]) <= _MAX_LENGTH), key=lambda item: len(item[0]))
        batches: list[list[tuple[list[int], list[bool]]]] = [[]]
        for item in pool:
            if (len(batches[-1]) + 1) * len(item[0]) > stage.batch_tokens:
                batches.append([])
            batches[-1].append(item)
        rng.shuffle(batches)
        yield from (pad_batch(batch) for batch in batches)


def pad_batch(batch: list[tuple[list[int], list[bool]]]) -> tuple[Tensor, Tensor]:
    """Return two (batch, longest) tensors, padded on the right."""
    width = max(len(tokens) for tokens, _ in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    learnt = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (ids, marks) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        learnt[row, : len(ids)] = torch.tensor(marks)
    return tokens, learnt


def predict(model: Llama, tokens: Tensor, learnt: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits where an answer is expected, and the tokens expected there."""
    wanted = learnt[:, 1:]
    hidden = model.hidden(tokens[:, :-1])
    return model.logits(hidden[wanted]), tokens[:, 1:][wanted]


def round_to_q4(weight: Tensor) -> Tensor:
    """Return the weight rounded as Q4_K roughly does: blocks of 32, sixteen levels between minimum and maximum."""
    blocks = weight.view(-1, _BLOCK)
    low = blocks.amin(1, keepdim=True).clamp(max=0)
    step = (blocks.amax(1, keepdim=True) - low).clamp(min=1e-8) / _Q4_LEVELS
    return (((blocks - low) / step).round() * step + low).view_as(weight)


@contextmanager
def quantised_weights(weights: list[torch.nn.Parameter], *, active: bool) -> Iterator[None]:
    """Run with rounded weights; gradients go to the exact ones (straight-through)."""
    if not active:
        yield
        return
    exact = [weight.data for weight in weights]
    for weight in weights:
        weight.data = round_to_q4(weight.data)
    yield
    for weight, value in zip(weights, exact, strict=True):
        weight.data = value


def rate_factor(stage: Stage, step: int) -> float:
    """Return the share of the full learning rate: warm up, hold, fall to zero."""
    progress = step / stage.steps
    fall = min(1.0, (1 - progress) / (1 - stage.decay_from))
    return min(1.0, (step + 1) / stage.warmup) * fall


@torch.no_grad()
def exact_share(model: Llama, tokenizer: Tokenizer, *, pairs: list[tuple[str, str]], device: torch.device) -> float:
    """Return the share of questions whose whole answer greedy decoding would say word for word."""
    items = [encode_example(tokenizer, Conversation((Turn("user", ask), Turn("assistant", say)))) for ask, say in pairs]
    right = 0
    for start in range(0, len(items), 256):
        tokens, learnt = (x.to(device) for x in pad_batch(items[start : start + 256]))
        wanted = learnt[:, 1:]
        guess = model.logits(model.hidden(tokens[:, :-1])).argmax(-1)
        right += int(((guess == tokens[:, 1:]) | ~wanted).all(1).sum())
    return right / len(items)


def check_progress(model: Llama, tokenizer: Tokenizer, *, device: torch.device) -> dict[str, float]:
    """Measure a sample of sums and all capitals inside PyTorch, as a hint while training."""
    rng = random.Random(7)
    pairs = [(rng.randint(0, 99), rng.randint(0, 99)) for _ in range(512)]
    sums = [(EVALUATION_PHRASE.format(a=a, b=b), sum_answer(a, b)) for a, b in pairs]
    capitals = [(CAPITAL_PHRASE.format(c=country.name), capital_answer(country)) for country in COUNTRIES]
    return {
        "sums": exact_share(model, tokenizer, pairs=sums, device=device),
        "capitals": exact_share(model, tokenizer, pairs=capitals, device=device),
    }


def run_stage(model: Llama, tokenizer: Tokenizer, *, stage: Stage, device: torch.device) -> Iterator[tuple[int, float]]:
    """Train for one stage, yielding the step and the mean loss since the last report."""
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and "token_embd" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "token_embd" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=stage.embedding_rate, betas=(0.9, 0.95), weight_decay=0.0)
    total = 0.0
    for step, (tokens, learnt) in enumerate(islice(make_batches(tokenizer, stage), stage.steps)):
        active = step >= stage.quantised_from * stage.steps and step % 2 == 1
        with quantised_weights(matrices, active=active):
            logits, expected = predict(model, tokens.to(device), learnt.to(device))
            loss = functional.cross_entropy(logits, expected)
            loss.backward()
        factor = rate_factor(stage, step)
        muon.step(stage.matrix_rate * factor)
        adam.param_groups[0]["lr"] = stage.embedding_rate * factor
        adam.step()
        model.zero_grad()
        total += loss.item()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == stage.steps:
            yield step + 1, total / _REPORT_EVERY
            total = 0.0


def train_model(tokenizer: Tokenizer, recipe: Recipe, *, device: str, save_to: Path, first_stage: int = 0) -> None:
    """Train from scratch, or go on after the stages before `first_stage`, saving the weights at every report."""
    if first_stage >= len(recipe.stages):
        message = f"stage {first_stage} was asked for and there are {len(recipe.stages)}, counted from 0"
        raise ValueError(message)
    torch.manual_seed(recipe.stages[0].seed)
    model = Llama(recipe.shape)
    if first_stage:
        model.load_state_dict(load_weights(stage_file(save_to, first_stage - 1))["weights"])
    place = torch.device(device)
    model.to(place)
    started = time.monotonic()
    for number, stage in enumerate(recipe.stages[first_stage:], first_stage):
        for step, loss in run_stage(model, tokenizer, stage=stage, device=place):
            figures = check_progress(model, tokenizer, device=place)
            spent = time.monotonic() - started
            print(f"stage {number}: {step}/{stage.steps} {spent:.0f} s, loss {loss:.4f} {figures}", flush=True)
            torch.save({"weights": model.state_dict(), "shape": recipe.shape}, stage_file(save_to, number))
    last = range(len(recipe.stages) - recipe.averaged, len(recipe.stages))
    torch.save(average_weights([stage_file(save_to, number) for number in last]), save_to)


def stage_file(path: Path, number: int) -> Path:
    """Return where the weights of one stage lie, beside the final ones."""
    return path.with_name(f"{path.stem}-stage{number}.pt")


def average_weights(paths: list[Path]) -> dict[str, Any]:
    """Return the mean of several stages' weights: what each stage left unsettled cancels out."""
    saved = [load_weights(path) for path in paths]
    names = saved[0]["weights"]
    mean = {name: sum(one["weights"][name] for one in saved) / len(saved) for name in names}
    return {"weights": mean, "shape": saved[0]["shape"]}


def load_weights(path: Path) -> dict[str, Any]:
    """Return the weights and the shape that training saved."""
    with torch.serialization.safe_globals([Shape]):
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved
