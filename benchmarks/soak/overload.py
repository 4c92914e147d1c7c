"""What is left of a service that is asked for ten times what it can do?

Samples are due at random times at a fixed rate (an open loop: nobody waits for anybody), each with a deadline. What is
asked for beyond the capacity must be refused at once, what is let in must be answered within its deadline, and the
model must not notice. The model is a stub of a fixed speed, or with --model a checkpoint, whose capacity is measured
first.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from statistics import quantiles

import uvloop

from benchmarks.soak import questions, servers
from benchmarks.soak.connections import Answer, Connection, Crowd
from benchmarks.soak.servers import Process
from benchmarks.soak.verdicts import Memory, Verdict, parser, report, stop, tell_progress

#: Words of a prompt, and of a response, at most: for the stub, and for a model, which two cores can overload then.
STUB_WORDS, MODEL_WORDS = 20, 160
#: Seconds of work that the stub gets in one batch, and tokens of its samples, about and at most.
BATCH_SECONDS, SAMPLE_TOKENS, LONGEST = 0.2, 30, 50
PROBE_SECONDS = 0.1
#: Time without samples after which a service must be as new.
RECOVERY_SECONDS = 2.0
#: Clients that wait for one another, to learn what a model can do.
CALIBRATION_CLIENTS = 64

GOODPUT, REFUSAL_SECONDS, GROWTH = 0.9, 0.05, 0.02


@dataclass(slots=True)
class Flood:
    """What came of a run so far; times in seconds."""

    seconds: float
    deadline: float
    sent: int = 0
    lost: int = 0
    started: float = field(default_factory=time.perf_counter)
    statuses: Counter[int] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    retry_after: Counter[str] = field(default_factory=Counter)
    probes: Counter[int] = field(default_factory=Counter)
    probe_seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)

    def elapsed(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def count(self, answer: Answer, took: float) -> None:
        """Takes in an answer."""
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.answered.append((self.elapsed(), took))
        if answer.status == 503:
            self.refused.append(took)
            self.retry_after[answer.headers.get("retry-after", "missing")] += 1

    def goodput(self) -> float:
        """Samples answered a second, until the last one was sent."""
        return sum(at <= self.seconds for at, _ in self.answered) / self.seconds


async def capacity(port: int, seconds: float, words: int) -> float:
    """Samples a second that the service answers when as many clients as it likes wait for one another."""
    crowd, rng = Crowd(port), random.Random(1)
    until = time.perf_counter() + seconds
    answered = 0

    async def client() -> None:
        nonlocal answered
        while time.perf_counter() < until:
            answer = await crowd.ask("/score", questions.sample(rng, words), {})
            answered += answer.status == 200

    await asyncio.gather(*(client() for _ in range(CALIBRATION_CLIENTS)))
    crowd.close()
    return answered / seconds


async def flood(process: Process, rate: float, seconds: float, deadline: float, words: int) -> Flood:
    """Sends samples at `rate` for `seconds`, each of which wants its answer within `deadline` seconds."""
    crowd, rng, waves = Crowd(process.port), random.Random(0), set[asyncio.Task[None]]()
    seen = Flood(seconds, deadline)
    headers = {"X-Request-Timeout": f"{deadline:g}"}

    async def ask() -> None:
        body = questions.sample(rng, words)
        sent = time.perf_counter()
        try:
            answer = await crowd.ask("/score", body, headers)
        except (OSError, asyncio.IncompleteReadError):
            seen.lost += 1
        else:
            seen.count(answer, time.perf_counter() - sent)

    watches = [asyncio.create_task(watch(process, seen)) for watch in (_weigh, _probe)]
    progress = asyncio.create_task(tell_progress(lambda: f"{seen.sent} sent, {dict(seen.statuses)}, {seen.lost} lost"))
    due = 0.0
    while (due := due + rng.expovariate(rate)) < seconds:
        if (pause := due - seen.elapsed()) > 0:
            await asyncio.sleep(pause)
        seen.sent += 1
        wave = asyncio.create_task(ask())
        waves.add(wave)
        wave.add_done_callback(waves.discard)
    await asyncio.gather(*waves)
    await stop(*watches, progress)
    crowd.close()
    return seen


async def _weigh(process: Process, seen: Flood) -> None:
    while True:
        if seen.elapsed() < seen.seconds:
            seen.memory.append((seen.elapsed() / seen.seconds, process.resident_bytes()))
        await asyncio.sleep(PROBE_SECONDS)


async def _probe(process: Process, seen: Flood) -> None:
    with closing(await Connection.open(process.port)) as connection:
        while True:
            for path in ("/livez", "/readyz"):
                sent = time.perf_counter()
                seen.probes[(await connection.get(path)).status] += 1
                seen.probe_seconds.append(time.perf_counter() - sent)
            await asyncio.sleep(PROBE_SECONDS)


async def recovered(process: Process) -> Verdict:
    """Whether the service is as new soon after."""
    await asyncio.sleep(RECOVERY_SECONDS)
    connection = await Connection.open(process.port)
    sent = time.perf_counter()
    answer = await connection.post("/score", questions.sample(random.Random(2), STUB_WORDS), {})
    seen = f"{answer.status} after {1000 * (time.perf_counter() - sent):.0f} ms"
    connection.close()
    return Verdict(f"{RECOVERY_SECONDS:g} s later a sample is answered", answer.status == 200, seen)


def judge(seen: Flood, able: float) -> list[Verdict]:
    """What the run says, for a service that can do `able` samples a second."""
    good, late = seen.goodput() / able, seen.statuses[504]
    slowest = max((took for _, took in seen.answered), default=0.0)
    unforeseen = {status: count for status, count in seen.statuses.items() if status not in {200, 503, 504}}
    told = all(value.isdecimal() and 1 <= int(value) <= 60 for value in seen.retry_after)
    refusal = _percentile(seen.refused, 99)
    probes = ", ".join(f"{count} times {status}" for status, count in seen.probes.items())
    return [
        Verdict(
            f"goodput is at least {100 * GOODPUT:g} % of capacity",
            good >= GOODPUT,
            f"{seen.goodput():.1f} of {able:.1f} a second, {100 * good:.0f} %",
        ),
        Verdict(
            f"what is let in is answered within its deadline of {seen.deadline:g} s",
            not late and slowest <= seen.deadline,
            f"{late} of {late + seen.statuses[200]} too late, the slowest after {slowest:.2f} s",
        ),
        Verdict(
            "all else is refused",
            not unforeseen and not seen.lost,
            f"other statuses: {unforeseen or 'none'}, without an answer: {seen.lost}",
        ),
        Verdict("a refusal says when to try again", told, f"Retry-After: {dict(sorted(seen.retry_after.items()))}"),
        Verdict(
            f"99 of 100 refusals come within {1000 * REFUSAL_SECONDS:g} ms",
            refusal < REFUSAL_SECONDS,
            f"50 % in {1000 * _percentile(seen.refused, 50):.1f} ms, 99 % in {1000 * refusal:.1f} ms",
        ),
        Verdict(
            "/livez and /readyz are 200 throughout",
            set(seen.probes) == {200},
            f"{probes}, 99 % in {1000 * _percentile(seen.probe_seconds, 99):.1f} ms",
        ),
        Memory(seen.memory).verdict(GROWTH),
    ]


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1] if len(values) > 1 else 0.0


@contextmanager
def _server(model: str | None, inputs_per_second: float) -> Iterator[Process]:
    if model is not None:
        with servers.real(model) as process:
            yield process
    else:
        # A sample longer than half a batch would need several turns, between which later ones have theirs.
        tokens = max(2 * LONGEST, int(BATCH_SECONDS * SAMPLE_TOKENS * inputs_per_second))
        flags = ["--max-batch-tokens", str(tokens)]
        with servers.stub(inputs_per_second=inputs_per_second, flags=flags) as process:
            yield process


def soak(
    model: str | None, inputs_per_second: float, factor: float, seconds: float, deadline: float
) -> tuple[Flood, float, list[Verdict]]:
    """Runs against a process of its own, and judges; also the samples a second that it is able to score."""
    words = STUB_WORDS if model is None else MODEL_WORDS
    with _server(model, inputs_per_second) as process:
        able = inputs_per_second if model is None else uvloop.run(capacity(process.port, min(10.0, seconds), words))
        seen = uvloop.run(flood(process, factor * able, seconds, deadline, words))
        verdicts = [*judge(seen, able), uvloop.run(recovered(process))]
        process.tell_to_end()
        code = process.end()
        return seen, able, [*verdicts, Verdict("it ends as it should", code == 0, f"exit code {code}")]


def main(argv: list[str]) -> int:
    """Runs; 0 if all holds."""
    flags = parser(__doc__)
    flags.add_argument("--model", help="directory of a checkpoint; default: the stub")
    flags.add_argument("--inputs_per_second", type=float, default=50.0, help="speed of the stub")
    flags.add_argument("--factor", type=float, default=10.0, help="load over capacity")
    flags.add_argument("--seconds", type=float, default=60.0)
    flags.add_argument("--deadline", type=float, default=5.0, help="seconds that each sample may take")
    given = flags.parse_args(argv)
    seen, able, verdicts = soak(given.model, given.inputs_per_second, given.factor, given.seconds, given.deadline)
    counts: dict[str, object] = {
        "model": given.model or f"a stub, {able:g} inputs a second",
        "load": f"{seen.sent} samples in {given.seconds:g} s, {seen.sent / given.seconds / able:.1f} times capacity",
        "statuses": dict(sorted(seen.statuses.items())),
    }
    return 0 if report("overload", verdicts, counts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
