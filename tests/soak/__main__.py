"""The long run: `python -m tests.soak`, for SOAK_ROUNDS (500) rounds of chance that follows from SOAK_SEED.

Every so many rounds everybody goes home, and nothing may be left of them. The first thing that is wrong ends the run,
with the node's directory left as it is.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from csi_oras.demo.distribution import Distribution
from tests.soak.rounds import Node
from tests.support.artifacts import Pusher

_EPOCH = 25


def main() -> int:
    """Play all rounds, and say how each ended."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "500"))
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns() % 1_000_000_007)))
    directory = Path(tempfile.mkdtemp(prefix="co-soak-"))
    say(f"{rounds} rounds, SOAK_SEED={seed}, in {directory}")
    started = time.monotonic()
    with Distribution(directory / "registry") as registry:
        node = Node(directory / "node", Pusher(registry.address), "soak/artifacts", seed)
        try:
            for number in range(1, rounds + 1):
                ending = node.play()
                seconds, mounted = time.monotonic() - started, len(node.driver.mounts())
                said = f"killed {ending}, {node.published} published so far, {mounted} mounted"
                say(f"{number}/{rounds} {seconds:.0f} s: {said}")
                if number % _EPOCH == 0 or number == rounds:
                    node.go_home()
                    say(f"{number}/{rounds} everybody went home, and nothing is left")
        finally:
            node.end()
    return 0


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 (a program that says how far it is)


if __name__ == "__main__":
    sys.exit(main())
