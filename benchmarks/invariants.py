"""Compare a gateway with a model of it, step by step: ``python -m benchmarks.invariants [--steps 20000]``.

Clients ask and leave, workers answer, break off, die, come back and are replaced; after each step what the gateway
counts must be what the model says is under way. It ends with the steps to a first difference, or says how many it took.
"""

from __future__ import annotations

import argparse

from tests.process.gateway.relay.test_invariants import GatewayMachine, run_machine


def main() -> None:
    """Take so many steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=20000)
    wanted = parser.parse_args().steps
    while GatewayMachine.steps < wanted:
        run_machine(wanted - GatewayMachine.steps, derandomize=False)
    print(f"{GatewayMachine.steps} steps, no difference")


if __name__ == "__main__":
    main()
