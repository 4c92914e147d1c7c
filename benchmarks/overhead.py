"""What the service costs beside its model: CPU time of its process for a request of one sample.

    python -m benchmarks.overhead [--tokenizer DIR] [--inputs_per_second 1000] [--rounds 9] [--json]

The stub scorer stands for the model, so that what is measured is the service: server, layers, validation,
tokenisation, batcher, log, metrics. The stub's tokenizer and hashes are Python and cost CPU time themselves:
`stub alone` is their share. With --tokenizer, a real tokenizer and template render instead and the stub only scores.
`bare` is what the framework costs by itself: a FastAPI handler on the same server settings that parses the same bodies
and returns a number. Servers run in processes of their own on one core, one at a time, the client on another.

With --inputs_per_second the stub takes as long as a model of that speed, without using the core: requests a second
then show whether many small requests keep such a model busy.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvloop

from benchmarks import clients, machine
from benchmarks.servers import Stub, cpu_seconds, running, serve_bare, serve_service
from benchmarks.timing import Sample, alternate
from reward_model.records import Conversation, as_prompt

TEXTS = Path(__file__).parent.parent / "training" / "demo" / "heldout.jsonl"
#: About one exchange of HH-RLHF, which has 157 tokens on average.
PROMPT_CHARACTERS, RESPONSE_CHARACTERS = 200, 500
CONNECTIONS = (32, 256)
CLIENT_CORE = 0


@dataclass
class Measurement:
    """One server under one number of clients; each call is one run.

    Attributes:
        loads: what the client saw, run by run.
    """

    pid: int
    port: int
    requests: list[bytes]
    connections: int
    count: int
    loads: list[clients.Load] = field(default_factory=list)

    def __call__(self) -> float:
        """CPU milliseconds of the server's process, all threads, user and system, for one request."""
        before = cpu_seconds(self.pid)
        load = uvloop.run(clients.closed_loop(self.port, self.requests, connections=self.connections, count=self.count))
        self.loads.append(load)
        return 1000 * (cpu_seconds(self.pid) - before) / self.count

    def seen(self, rounds: int) -> dict[str, Sample]:
        """The client's figures of the last `rounds` runs."""
        loads = self.loads[-rounds:]
        return {
            "requests_per_second": Sample(tuple(load.rate for load in loads)),
            "p50_ms": Sample(tuple(1000 * load.percentile(50) for load in loads)),
            "p99_ms": Sample(tuple(1000 * load.percentile(99) for load in loads)),
        }


def samples() -> list[tuple[str, str]]:
    """Prompt and response, each of the usual length, put together from the demo's held-out texts."""
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    turned = [rows[start:] + rows[:start] for start in range(len(rows))]
    return [
        (
            " ".join(row["prompt"] for row in some)[:PROMPT_CHARACTERS],
            " ".join(row["chosen"] for row in some)[:RESPONSE_CHARACTERS],
        )
        for some in turned
    ]


def stub_alone(stub: Stub, texts: list[tuple[str, str]]) -> float:
    """CPU milliseconds of rendering and scoring one sample, without any service around it."""
    scorer = stub.make()
    records = [Conversation(as_prompt(prompt), response) for prompt, response in texts]
    started = time.process_time()
    for record in records:
        scorer.run([scorer.render(record)])
    return 1000 * (time.process_time() - started) / len(records)


def measure(stub: Stub, rounds: int, count: int) -> dict[str, dict[str, Sample]]:
    """All figures: candidate, then figure."""
    texts = samples()
    bodies = [json.dumps({"inputs": [{"prompt": prompt, "response": response}]}) for prompt, response in texts]
    requests = [clients.post("/score", body.encode()) for body in bodies]
    with running(partial(serve_service, stub)) as service, running(serve_bare) as bare:
        os.sched_setaffinity(0, {CLIENT_CORE})
        measurements = {
            f"{name}, {connections} clients": Measurement(*server, requests, connections, count)
            for connections in CONNECTIONS
            for name, server in (("service", service), ("bare", bare))
        }
        cpu = alternate({**measurements, "stub alone": partial(stub_alone, stub, texts)}, rounds)
    figures = {name: {"cpu_ms": sample} for name, sample in cpu.items()}
    for name, measurement in measurements.items():
        figures[name] |= measurement.seen(rounds)
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tokenizer", help="directory of a tokenizer that renders in place of the stub's")
    parser.add_argument("--inputs_per_second", type=float, help="speed of the model that the stub stands for")
    parser.add_argument("--rounds", type=int, default=9, help="how often each candidate is measured")
    parser.add_argument("--requests", type=int, default=4000, help="requests of one measurement")
    parser.add_argument("--json", action="store_true", help="every value of every round, as JSON")
    flags = parser.parse_args()
    about = machine.describe() | {"texts": f"{PROMPT_CHARACTERS} + {RESPONSE_CHARACTERS} characters"}
    figures = measure(Stub(flags.tokenizer, flags.inputs_per_second), flags.rounds, flags.requests)
    if flags.json:
        values = {name: {figure: sample.values for figure, sample in of.items()} for name, of in figures.items()}
        print(json.dumps({"machine": about, "figures": values}, indent=2))
        return
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"\nmedian (lowest to highest) of {flags.rounds} alternating rounds of {flags.requests} requests\n")
    for name, of in figures.items():
        shown = (f"{figure} {one.median:.3f} ({one.low:.3f} to {one.high:.3f})" for figure, one in of.items())
        print(f"{name}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
