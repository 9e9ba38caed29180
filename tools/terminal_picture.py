"""Draw the README's picture, docs/terminal.svg: a terminal, and what commands really print there.

``python -m tools.terminal_picture`` runs them in a folder of its own and writes the picture.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["COMMANDS", "PICTURE", "read_lines", "run"]

PICTURE = Path(__file__).parents[1] / "docs" / "terminal.svg"
COMMANDS = (
    'llcuda infer -m demo "What is the capital of France?"',
    """echo '{"type": "object", "properties": {"answer": {"type": "integer"}}}' > sum.json""",
    'llcuda infer -m demo --schema sum.json "What is 23+45? Answer in JSON."',
    "llcuda serve -m demo --workers 2 &",
    'llcuda-client "What is 12+30?"',
)
_WAIT = "until curl -fs localhost:8090/health >/dev/null; do sleep 0.1; done; sleep 0.3"
_STEP, _LEFT, _WIDTH = 20, 16, 8.43  # of a line, at the left edge, of a character at 14 px


def run(commands: tuple[str, ...] = COMMANDS) -> list[str]:
    """Return the lines of the terminal: each command after a prompt, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        steps = ((f"echo {shlex.quote(f'$ {one}')}", one, _WAIT if one.endswith("&") else "") for one in commands)
        script = "\n".join("\n".join(step) for step in steps)
        command = ["bash", "-c", f"exec 2>&1; trap 'jobs -p | xargs -r kill' EXIT\n{script}"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300).stdout
    return said.splitlines()


def read_lines(picture: str) -> list[str]:
    """Return the lines that a picture shows."""
    entities = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
    texts = re.findall(r"<text [^>]*>(.*)</text>", picture)
    return [re.sub("&[a-z]+;", lambda found: entities[found[0]], text) for text in texts]


def draw(lines: list[str]) -> str:
    """Return the picture of a dark terminal."""
    width, height = max(map(len, lines)) * _WIDTH + 2 * _LEFT, (len(lines) + 1) * _STEP
    texts = [
        f'<text x="{_LEFT}" y="{(at + 1) * _STEP}" fill="{"#7ee787" if line.startswith("$ ") else "#e6edf3"}">'
        f"{escape(line)}</text>"
        for at, line in enumerate(lines)
    ]
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
        '<rect width="100%" height="100%" rx="8" fill="#0d1117"/>',
        '<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">',
        *texts,
        "</g>",
        "</svg>",
        "",
    ))  # fmt: skip


if __name__ == "__main__":
    PICTURE.write_text(draw(run()), encoding="utf-8")
