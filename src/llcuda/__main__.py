"""`llcuda`, and `python -m llcuda`: the command line."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line. Ctrl-C while it is still being imported ends it as it does any program, without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from llcuda.cli import main  # noqa: PLC0415 - see above

    return main()


if __name__ == "__main__":
    sys.exit(main())
