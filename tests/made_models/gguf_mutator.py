"""Valid GGUF headers made wrong: bits, lengths, splices, truncations. The same seed gives the same cases."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from llcuda.gguf.cursor import Cursor
from llcuda.gguf.header import parse_gguf, read_header
from tests.made_models.gguf_builder import (
    ARRAY,
    BOOL,
    F64,
    I8,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Model,
    Tensor,
    small_model,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERESTING = (
    *range(20), 31, 32, 33, 63, 64, 127, 128, 255, 256, 1023, 4095, 4096, 16384, 65535, 65536, 2**20, 2**21, 2**24,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 33, 2**64 - 8, 2**64 - 1,
)  # fmt: skip

LONG = 20_000


@dataclass(frozen=True)
class Seed:
    """A valid header, and where in it the numbers stand that the reader goes by: ``(offset, bytes)``."""

    data: bytes
    fields: tuple[tuple[int, int], ...]


class _Recorder(Cursor):
    """A cursor that notes which numbers are read, and where."""

    __slots__ = ("fields",)

    def __init__(self, data: bytes) -> None:
        super().__init__(lambda offset, count: data[offset : offset + count], len(data), name="seed")
        self.fields: list[tuple[int, int]] = []

    @override
    def unpack(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        place = self.offset
        for code in layout.format[1:]:
            size = struct.calcsize("<" + code)
            if size in {4, 8}:
                self.fields.append((place, size))
            place += size
        return super().unpack(layout, what)


def make_seed(data: bytes) -> Seed:
    recorder = _Recorder(data)
    read_header(recorder)
    parse_gguf(data)
    return Seed(data, tuple(recorder.fields))


def make_seeds() -> tuple[Seed, ...]:
    """Return small headers of both versions, with every value type, and one with a vocabulary worth the fast walk."""
    every = small_model()
    every.pairs += [
        ("a.u8", U8, 7), ("a.i8", I8, -7), ("a.u64", U64, 2**40), ("a.i64", I64, -1), ("a.f64", F64, 0.5),
        ("a.flags", ARRAY, (BOOL, [True, False])), ("a.words", ARRAY, (STRING, ["x", "", "yz" * 40])),
        ("split.no", U16, 0), ("split.count", U16, 2), ("general.alignment", U32, 64),
    ]  # fmt: skip
    every.alignment = 64
    every.tensors += [Tensor(f"blk.{layer}.weight", (256, 2, 1, 1), kind) for layer, kind in enumerate((8, 14, 30, 39))]
    wide = small_model()
    wide.pairs[7] = ("tokenizer.ggml.tokens", ARRAY, (STRING, [str(number) for number in range(4200)]))
    bare = Model(pairs=[("general.architecture", STRING, "clip")])
    return tuple(make_seed(model.build()) for model in (small_model(), small_model(version=2), every, bare, wide))


def mutate(short: tuple[Seed, ...], long: tuple[Seed, ...], chance: random.Random) -> bytes:
    """Return one of the seeds with one to three changes; the long ones come once in fifty times."""
    seed = chance.choice(long if long and chance.random() < 0.02 else short)
    data = bytearray(seed.data)
    for _ in range(1 + int(chance.random() * 3)):
        _CHANGES[int(chance.random() * len(_CHANGES))](data, seed, short, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    return int(chance.random() * len(data))


def _flip(data: bytearray, _seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    for _ in range(1 + int(chance.random() * 4) if data else 0):
        data[_place(data, chance)] ^= 1 << int(chance.random() * 8)


def _set_field(data: bytearray, seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    place, size = chance.choice(seed.fields)
    if place + size <= len(data):
        data[place : place + size] = (chance.choice(INTERESTING) % 256**size).to_bytes(size, "little")


def _nudge_field(data: bytearray, seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    place, size = chance.choice(seed.fields)
    if place + size <= len(data):
        value = int.from_bytes(data[place : place + size], "little") + chance.choice((-8, -1, 1, 2, 8, 256))
        data[place : place + size] = (value % 256**size).to_bytes(size, "little")


def _truncate(data: bytearray, _seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _splice(data: bytearray, _seed: Seed, seeds: tuple[Seed, ...], chance: random.Random) -> None:
    other = chance.choice(seeds).data
    place = _place(data, chance)
    data[place:] = other[int(chance.random() * len(other)) :]


def _insert(data: bytearray, _seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    place = _place(data, chance)
    data[place:place] = chance.randbytes(1 + int(chance.random() * 16))


def _delete(data: bytearray, _seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    place = _place(data, chance)
    del data[place : place + 1 + int(chance.random() * 32)]


def _repeat(data: bytearray, _seed: Seed, _seeds: tuple[Seed, ...], chance: random.Random) -> None:
    place = _place(data, chance)
    data[place:place] = data[place : place + 1 + int(chance.random() * 128)]


_CHANGES = (_flip, _set_field, _set_field, _nudge_field, _truncate, _splice, _insert, _delete, _repeat)


def cases(count: int, *, seed: int, seeds: tuple[Seed, ...] | None = None) -> Iterator[bytes]:
    chance = random.Random(seed)
    chosen = seeds or make_seeds()
    short = tuple(each for each in chosen if len(each.data) < LONG)
    long = tuple(each for each in chosen if len(each.data) >= LONG)
    return (mutate(short, long, chance) for _ in range(count))
