"""README: the single entry: `python -m tools.demo_model data|train|export|evaluate|all`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.demo_model import commands


def main() -> None:
    """Parse the command line and run one step or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model", description=__doc__)
    parser.add_argument("command", choices=("data", "train", "export", "evaluate", "all"))
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"), help="folder for intermediate files")
    parser.add_argument("--model", choices=("main", "draft", "both"), default="both")
    parser.add_argument("--from-stage", type=int, default=0, help="go on from the weights of the stages before it")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for training")
    parser.add_argument("--server", type=Path, help="llama-server; default: the bundled one")
    parser.add_argument("--install", action="store_true", help="export into the package instead of the work folder")
    parser.add_argument(
        "--work-files", action="store_true", help="evaluate the files of the work folder, not the package's"
    )
    parser.add_argument("--quick", action="store_true", help="evaluate a seeded sample of the sums")
    parser.add_argument("--json", type=Path, help="write the evaluation there as JSON")
    commands.run(parser.parse_args())


if __name__ == "__main__":
    main()
