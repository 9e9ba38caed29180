"""A cursor over a file's bytes that never reads, allocates or skips past what the file's size allows."""

from __future__ import annotations

import re
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from llcuda.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 1 << 19
MAX_TEXT_BYTES = 1 << 20
"""The longest string that is read. Chat templates, the longest there are, stay under 100 KB."""

BLOCK = 128
"""Strings that one call of the compiled pattern walks: 128 hides its cost (0.5 µs), and a miss costs 13 µs."""

PATTERN_WORTH = 4096
"""Compiling the pattern takes 2.5 ms, which is what walking some 40,000 strings one by one costs."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@cache
def compile_walker() -> Callable[[bytes, int], re.Match[bytes] | None] | None:
    r"""Return a matcher of exactly ``BLOCK`` strings of under 64 bytes each, or None on Python 3.10.

    A string is its length in eight bytes and then its bytes, so the alternatives are ``\x05\0{7}.{5}`` and so on. That
    takes 50 ns a string, a loop over ``struct.unpack_from`` 90 ns, and the largest vocabularies have 777,000 strings.
    Possessive repeats, which 3.10 lacks, keep the engine from remembering where it could go back to.
    """
    if sys.version_info >= (3, 11):
        strings = "|".join(rf"\x{length:02x}\0{{7}}+.{{{length}}}+" for length in range(1, 64))
        return re.compile(rf"(?s:\x00\0{{7}}+|{strings}){{{BLOCK}}}+".encode()).match
    return None


class Cursor:
    """A position in ``size`` bytes, which ``read_at(offset, count)`` hands out."""

    __slots__ = ("_at", "_base", "_buffer", "_read_at", "name", "size")

    def __init__(self, read_at: Callable[[int, int], bytes], size: int, *, name: str) -> None:
        """Start at the first byte; ``name`` is what errors call the file."""
        self._read_at = read_at
        self.size = size
        self.name = name
        self._buffer = b""
        self._base = 0
        self._at = 0

    @property
    def offset(self) -> int:
        """The position from the start of the file."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        """The bytes from here to the end of the file."""
        return self.size - self._base - self._at

    def fail(self, reason: str, *, offset: int | None = None, hint: str = "") -> NoReturn:
        """Raise ModelFormatError for this place, or for the ``offset`` given."""
        raise ModelFormatError(self.name, reason, offset=self.offset if offset is None else offset, hint=hint)

    def need(self, count: int, what: str) -> None:
        """Have the next ``count`` bytes in the buffer. Raises ModelFormatError if the file ends before them."""
        if self._at + count <= len(self._buffer):
            return
        if count > self.remaining:
            self.fail(f"the file ends inside {what}")
        self._base, self._at = self.offset, 0
        self._buffer = self._read_at(self._base, min(max(CHUNK_BYTES, count), self.remaining))
        if len(self._buffer) < count:
            self.fail(f"the file became shorter while {what} was read")

    def unpack(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        """Read the values of one ``struct`` layout."""
        self.need(layout.size, what)
        at = self._at
        self._at = at + layout.size
        return layout.unpack_from(self._buffer, at)

    def u32(self, what: str) -> int:
        """Read an unsigned number of four bytes."""
        return self.unpack(_U32, what)[0]

    def u64(self, what: str) -> int:
        """Read an unsigned number of eight bytes."""
        return self.unpack(_U64, what)[0]

    def take(self, count: int, what: str) -> bytes:
        """Read ``count`` bytes, which the caller has bounded."""
        self.need(count, what)
        at = self._at
        self._at = at + count
        return self._buffer[at : at + count]

    def skip(self, count: int, what: str) -> None:
        """Step over ``count`` bytes without reading them."""
        if count > self.remaining:
            self.fail(f"the file ends inside {what}: it needs {count} more bytes and {self.remaining} are left")
        if self._at + count <= len(self._buffer):
            self._at += count
        else:
            self._buffer, self._base, self._at = b"", self.offset + count, 0

    def text(self, what: str, *, limit: int = MAX_TEXT_BYTES) -> str:
        """Read a string of at most ``limit`` bytes, which must be UTF-8."""
        start = self.offset
        length = self.u64(what)
        if length > limit or length > self.remaining:
            bound = f"{self.remaining} bytes are left" if length > self.remaining else f"the limit is {limit}"
            self.fail(f"{what} has a length of {length}, and {bound}", offset=start)
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8", offset=start + 8 + error.start)

    def skip_strings(self, count: int, what: str) -> None:
        """Step over ``count`` strings without making objects of them."""
        if count * 8 > self.remaining:
            self.fail(f"{what} has {count} strings and {self.remaining} bytes are left")
        match = compile_walker() if count >= PATTERN_WORTH else None
        while count > 0:
            if match and count >= BLOCK and (found := match(self._buffer, self._at)):
                self._at = found.end()
                count -= BLOCK
            else:
                count -= self._walk(min(count, BLOCK), what)

    def _walk(self, count: int, what: str) -> int:
        """Step over one to ``count`` strings, as many as begin in the buffer, and return how many that were."""
        self.need(8, what)
        read, buffer, at, last = _U64.unpack_from, self._buffer, self._at, len(self._buffer) - 8
        done = 0
        while done < count and at <= last:
            at += read(buffer, at)[0] + 8
            done += 1
        self.skip(at - self._at, what)
        return done
