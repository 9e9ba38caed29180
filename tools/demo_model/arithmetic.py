"""README: sums from 0 to 99, the phrasings that ask for them, and the other arithmetic that the model must refuse."""

# ruff: noqa: PLR2004 SIM905 - the numbers are shares of a mixture; word lists read best as text.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.demo_model.texts import UNKNOWN

if TYPE_CHECKING:
    from random import Random

LIMIT: Final = 99
EVALUATION_PHRASE: Final = "What is {a}+{b}?"

_ONES: Final = tuple(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""".split()
)
_TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

PHRASES: Final = (
    "What is {e}?",
    "What is {e}",
    "what is {e}?",
    "what is {e}",
    "What's {e}?",
    "what's {e}",
    "Whats {e}?",
    "How much is {e}?",
    "how much is {e}",
    "{e}",
    "{e}?",
    "{e} =",
    "{e}=",
    "{e} = ?",
    "{e}=?",
    "Compute {e}.",
    "Compute {e}",
    "Calculate {e}.",
    "Calculate {e}",
    "calculate {e}",
    "Solve {e}.",
    "Evaluate {e}.",
    "Please compute {e}.",
    "Please tell me {e}.",
    "Tell me what {e} is.",
    "Can you tell me what {e} is?",
    "Could you calculate {e}?",
    "Can you compute {e}?",
    "Do you know what {e} is?",
    "What does {e} equal?",
    "What is the result of {e}?",
    "What is the value of {e}?",
    "What do you get for {e}?",
    "I need {e}.",
    "And {e}?",
    "And what is {e}?",
    "Now {e}.",
    "What about {e}?",
    "Hello, what is {e}?",
    "Hi! What is {e}?",
    "What is {e}? Answer briefly.",
    "What is {e}? Answer with the number.",
    "What is {e}? Think step by step.",
    "Question: What is {e}?",
    "{e} is what?",
    "{e} equals",
)
PAIR_PHRASES: Final = (
    "Add {a} and {b}.",
    "Add {a} and {b}",
    "add {a} and {b}",
    "Add {a} to {b}.",
    "Please add {a} and {b}.",
    "Can you add {a} and {b}?",
    "Sum {a} and {b}.",
    "What is the sum of {a} and {b}?",
    "what is the sum of {a} and {b}",
    "The sum of {a} and {b}?",
    "sum of {a} and {b}",
    "Find the sum of {a} and {b}.",
    "Calculate the sum of {a} and {b}.",
    "Give me the sum of {a} and {b}.",
    "How much are {a} and {b}?",
    "How much are {a} and {b} together?",
    "{a} and {b} is what?",
    "{a} and {b} make?",
    "What do {a} and {b} make?",
    "If I add {a} and {b}, what do I get?",
    "I have {a} apples and get {b} more. How many do I have?",
)
_SPELLINGS: Final = ("{a}+{b}", "{a} + {b}", "{a} plus {b}", "{a} +{b}", "{a}+ {b}")

_OTHER_EXPRESSIONS: Final = (
    "{a}*{b}", "{a} * {b}", "{a} times {b}", "{a}x{b}", "{a} x {b}", "{a}-{b}", "{a} - {b}", "{a} minus {b}", "{a}/{b}",
    "{a} / {b}", "{a} divided by {b}", "{a}^{b}", "{a}**{b}", "{a} % {b}", "{a} mod {b}", "{a} to the power of {b}",
    "{a}+{b}+{c}", "{a} + {b} + {c}", "{a}+{b}-{c}", "{a}*{b}+{c}", "{x}+{b}", "{a}+{x}", "{x} + {b}", "{a} + {x}",
    "{x}+{y}", "{x} + {y}", "{x} plus {y}", "{x} plus {b}", "{a}.{b}+{c}", "{a}+{b}.{c}", "-{a}+{b}", "{a}+-{b}",
    "sqrt({a})", "{a}!",
    "{a}", "{x}", "{a} {b}", "{a} > {b}", "{a} == {b}", "{a} or {b}", "{a}+", "+{b}", "x + {b}", "{a} + x", "a + b",
    "{a} + {b} apples - {c}", "{a}:{b}", "{a}={b}", "({a}+{b})*{c}", "log({a})", "{a}%",
)  # fmt: skip
_OTHER_PAIRS: Final = (
    "Multiply {a} and {b}.", "Multiply {a} by {b}.", "Subtract {a} from {b}.", "Divide {a} by {b}.",
    "What is the product of {a} and {b}?", "What is the difference of {a} and {b}?", "Add {x} and {y}.",
    "What is the sum of {x} and {b}?", "Add {a}, {b} and {c}.", "Which is larger, {a} or {b}?", "Is {a} prime?",
    "What is the square of {a}?", "What is half of {a}?", "What is twice {a}?", "What comes after {a}?",
    "Is {a} even?", "Is {a} greater than {b}?", "Add {a}.", "What is {a} percent of {b}?", "How many digits has {x}?",
    "I have {a} apples and lose {b}. How many do I have?", "Convert {a} to binary.", "Round {a}.{b}.",
)  # fmt: skip


def spell_number(n: int) -> str:
    """Return the English words for 0..99, tens and ones joined by a hyphen."""
    if n < len(_ONES):
        return _ONES[n]
    tens, ones = divmod(n, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def sum_answer(a: int, b: int) -> str:
    """Return the one canonical sentence that answers a sum."""
    return f"{a} + {b} = {a + b}."


def sample_pair(rng: Random) -> tuple[int, int]:
    """Draw two numbers from 0..99; many draws insist on a carry, and single digits come more often than their share."""
    draw = rng.random()
    if draw < 0.2:
        pair = [rng.randint(0, 9), rng.randint(0, 9 if draw < 0.12 else LIMIT)]
        rng.shuffle(pair)
        return pair[0], pair[1]
    carry = draw < 0.6
    while True:
        a, b = rng.randint(0, LIMIT), rng.randint(0, LIMIT)
        if not carry or a % 10 + b % 10 > 9 or a // 10 + b // 10 > 8:
            return a, b


def ask_sum(rng: Random, a: int, b: int) -> str:
    """Phrase the question for one sum in one of many ways, the evaluated one most often."""
    draw = rng.random()
    if draw < 0.35:
        return EVALUATION_PHRASE.format(a=a, b=b)
    if draw < 0.40:
        return rng.choice(PHRASES).format(e=f"{spell_number(a)} plus {spell_number(b)}")
    if draw < 0.55:
        return rng.choice(PAIR_PHRASES).format(a=a, b=b)
    return rng.choice(PHRASES).format(e=rng.choice(_SPELLINGS).format(a=a, b=b))


def sample_sum(rng: Random) -> tuple[str, str]:
    """Draw a question for a sum with its answer."""
    a, b = sample_pair(rng)
    return ask_sum(rng, a, b), sum_answer(a, b)


def sample_other_arithmetic(rng: Random) -> tuple[str, str]:
    """Draw arithmetic that is not a sum of two numbers from 0 to 99, with the refusal."""
    values = {name: rng.randint(0, LIMIT) for name in "abc"}
    values |= {name: rng.randint(LIMIT + 1, 10 ** rng.randint(3, 6)) for name in "xy"}
    if rng.random() < 0.3:
        return rng.choice(_OTHER_PAIRS).format(**values), UNKNOWN
    expression = rng.choice(_OTHER_EXPRESSIONS).format(**values)
    return rng.choice(PHRASES if rng.random() < 0.7 else PHRASES[:1]).format(e=expression), UNKNOWN
