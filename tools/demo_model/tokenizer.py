"""README: trains the byte-level BPE vocabulary on the generated text; digits are single tokens (`pre` = "smollm")."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.demo_model.conversation import render_text
from tools.demo_model.data import iterate_examples

VOCABULARY: Final = 768
SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
)  # fmt: skip
USER_DEFINED: Final = ("<tool_call>", "</tool_call>")
VOCABULARY_FILE: Final = Path(__file__).with_name("tokenizer.json")
_SEED: Final = 20261
_EXAMPLES: Final = 40_000
_FRAGMENTS: Final = (
    " ", "  ", "\n", "\t", "\r\n", "'s", "'S", "'re", "I'm", "123", "\u00bd", "\u0663", "\u2167", "\u00b2",
    "a", "\u00e9", "e\u0301",
    "\ud55c\uae00", "\u00df", "\u01c5", "\u00a0", "\u3000", "!?", "...", "<tool_call>", "<|im_end|>", "_",
    "\u200b", "\U0001f642", "\x01",
)  # fmt: skip


def train_tokenizer(*, seed: int) -> Tokenizer:
    """Train the vocabulary; every byte and every digit has a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(USER_DEFINED),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (render_text(example) for example in islice(iterate_examples(seed), _EXAMPLES))
    markers = (*SPECIAL, *USER_DEFINED)

    def _without_markers(text: str) -> str:
        for marker in markers:
            text = text.replace(marker, "\n")
        return text

    tokenizer.train_from_iterator((_without_markers(text) for text in texts), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in USER_DEFINED])
    return tokenizer


def load_tokenizer() -> Tokenizer:
    """Return the committed vocabulary, training it where there is none: both models and any retraining share it."""
    if not VOCABULARY_FILE.exists():
        train_tokenizer(seed=_SEED).save(str(VOCABULARY_FILE))
    return Tokenizer.from_file(str(VOCABULARY_FILE))


def _noise(rng: Random) -> str:
    ranges = (
        (32, 126),
        (32, 126),
        (0xA0, 0x24F),
        (0x370, 0x5FF),
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0x1F300, 0x1F6FF),
    )
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 24)))


def _fragments(rng: Random) -> str:
    return "".join(rng.choice(_FRAGMENTS) for _ in range(rng.randint(1, 10)))


def sample_texts(seed: int, *, each: int = 120) -> list[str]:
    """Return texts that try a tokenizer: training text, letters of many scripts, spaces and contractions."""
    rng = Random(seed)
    taught = [render_text(example) for example in islice(iterate_examples(seed), each)]
    return [*taught, *(_noise(rng) for _ in range(each)), *(_fragments(rng) for _ in range(each))]
