"""How long each server takes until it is ready, and how much memory it then holds, idle and after a load.

python -m benchmarks.startup [--environments DIR]
"""

import argparse
from pathlib import Path

import uvloop

from benchmarks import machine, weights
from benchmarks.clients import closed_loop
from benchmarks.contestants import Contestant, contestants, running
from benchmarks.peers.__main__ import ENVIRONMENTS
from benchmarks.texts import HELD_OUT, samples
from benchmarks.timing import Sample

CONNECTIONS, REQUESTS = 32, 400


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=str(HELD_OUT), help="preference data")
    parser.add_argument("--source", default="", help="only rows whose source starts like this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="of the peers")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".work", help="for the model and logs")
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    texts = samples(flags.dataset_name, 256, source=flags.source)
    written = weights.write(flags.work, texts[:64])
    print("\n".join(f"{name}: {value}" for name, value in machine.describe().items()))
    print("\n| server | until ready, s (low to high) | memory then, MB | after a load, MB |")
    print("|---|---|---|---|")
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(flags.rounds):
        for one in contestants():
            requests = [one.request(text) for text in texts]
            measured.setdefault(one.name, []).append(_measure(one, written, requests, flags))
    for name, rounds in measured.items():
        ready, idle, loaded = (Sample(values) for values in zip(*rounds, strict=True))
        print(
            f"| {name} | {ready.median:.1f} ({ready.low:.1f} to {ready.high:.1f}) |"
            f" {idle.median:.0f} | {loaded.median:.0f} |"
        )


def _measure(
    contestant: Contestant, written: weights.Weights, requests: list[bytes], flags: argparse.Namespace
) -> tuple[float, float, float]:
    """Seconds, megabytes, megabytes."""
    with running(contestant, written, flags.environments, flags.work / "startup.log") as server:
        idle = server.resident_megabytes()
        uvloop.run(closed_loop(server.port, requests, connections=CONNECTIONS, count=REQUESTS))
        return server.seconds_to_ready, idle, server.resident_megabytes()


if __name__ == "__main__":
    main()
