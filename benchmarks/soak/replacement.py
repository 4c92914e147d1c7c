"""Does anybody notice when the replicas behind a proxy are replaced one by one?

Three stubs stand behind nginx or HAProxy. While requests come at a steady rate, whether or not earlier ones were
answered, each replica in turn is told to end, and when it has ended another one takes its place. Every request must be
answered, and rightly. The same follows with replicas that end at once, where the run must see requests fail.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from benchmarks.soak import proxies, questions, servers
from benchmarks.soak.connections import Crowd
from benchmarks.soak.proxies import NEWS_SECONDS, Proxy
from benchmarks.soak.servers import Process, free_port
from benchmarks.soak.verdicts import Verdict, parser, report, stop, tell_progress

#: Of each stub; a request has four inputs on average.
INPUTS_PER_SECOND = 400.0
REQUESTS_PER_SECOND = 100.0
ANSWER_SECONDS = 30.0
#: Failures that are printed; all are counted.
SHOWN = 5


@dataclass(slots=True)
class Watch:
    """What clients have seen so far."""

    sent: int = 0
    right: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    exit_codes: Counter[int] = field(default_factory=Counter)


class Replicas:
    """As many servers as there are ports, each of which can be replaced; the end of `everything` ends them."""

    def __init__(self, count: int, flags: list[str], everything: ExitStack) -> None:
        self.ports = [free_port() for _ in range(count)]
        self._flags = flags
        self._everything = everything
        self._running = [self._start(port) for port in self.ports]

    def replace(self, place: int, proxy: Proxy) -> int:
        """Ends the one at `place` and puts another there, telling `proxy` of both; returns the exit code."""
        process = self._running[place]
        process.tell_to_end()
        proxy.tell([port for port in self.ports if port != process.port])
        code = process.end()
        self._running[place] = self._start(process.port)
        proxy.tell(self.ports)
        time.sleep(NEWS_SECONDS)
        return code

    def _start(self, port: int) -> Process:
        started = servers.stub(inputs_per_second=INPUTS_PER_SECOND, flags=self._flags, port=port)
        return self._everything.enter_context(started)


async def load(port: int, rate: float, until: asyncio.Event, seen: Watch) -> None:
    """Sends requests at random times, `rate` a second, until told to stop."""
    crowd, rng, waves = Crowd(port), random.Random(0), set[asyncio.Task[None]]()
    started, due = time.perf_counter(), 0.0
    while not until.is_set():
        due += rng.expovariate(rate)
        if (pause := due - (time.perf_counter() - started)) > 0:
            await asyncio.sleep(pause)
        wave = asyncio.create_task(_ask(crowd, rng, seen))
        waves.add(wave)
        wave.add_done_callback(waves.discard)
    await asyncio.gather(*waves)
    crowd.close()


async def _ask(crowd: Crowd, rng: random.Random, seen: Watch) -> None:
    while (question := questions.ask(rng)).fault is not None:
        pass
    seen.sent += 1
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await crowd.ask(question.path, question.body, {})
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.failures.append(f"no answer: {error!r}")
        return
    seen.statuses[answer.status] += 1
    complaint = question.complaint(answer)
    if complaint is None:
        seen.right += 1
    else:
        seen.failures.append(complaint)


async def replaced(replicas: Replicas, proxy: Proxy, rounds: int, rate: float) -> Watch:
    """Replaces all replicas `rounds` times, one after the other, under load."""
    seen, done = Watch(), asyncio.Event()
    clients = asyncio.create_task(load(proxy.port, rate, done, seen))
    progress = asyncio.create_task(
        tell_progress(lambda: f"{seen.exit_codes.total()} replaced, {seen.sent} sent, {len(seen.failures)} failed")
    )
    try:
        for place in [*range(len(replicas.ports))] * rounds:
            code = await asyncio.to_thread(replicas.replace, place, proxy)
            seen.exit_codes[code] += 1
    finally:
        done.set()
        await clients
        await stop(progress)
    return seen


def judge(seen: Watch, replacements: int) -> list[Verdict]:
    """What the clients say."""
    shown = "".join(f"\n        {one}" for one in seen.failures[:SHOWN])
    ended = ", ".join(f"{count} times {code}" for code, count in seen.exit_codes.items())
    return [
        Verdict(
            "every request is answered, and rightly",
            seen.right == seen.sent and not seen.failures,
            f"{len(seen.failures)} of {seen.sent} failed{shown}",
        ),
        Verdict("every replica ended as it should", seen.exit_codes == {0: replacements}, f"exit code {ended}"),
    ]


def control(seen: Watch) -> Verdict:
    """What must be seen where nothing is drained, or the run would see nothing at all."""
    return Verdict("requests fail", bool(seen.failures), f"{len(seen.failures)} of {seen.sent}")


def soak(proxy: str, replicas: int, rounds: int, rate: float, *, drain: bool) -> tuple[Watch, list[Verdict]]:
    """Runs `proxy` before `replicas` stubs, and judges."""
    flags = [] if drain else ["--shutdown-delay-seconds", "0", "--drain-seconds", "0"]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        behind = Replicas(replicas, flags, stack)
        before = stack.enter_context(proxies.running(proxy, Path(folder), behind.ports))
        seen = uvloop.run(replaced(behind, before, rounds, rate))
    return seen, judge(seen, replicas * rounds)


def main(argv: list[str]) -> int:
    """Runs each proxy with and without a drain; 0 if all holds, and requests failed where they must."""
    flags = parser(__doc__)
    flags.add_argument("--proxy", nargs="+", choices=list(proxies.PROXIES), default=list(proxies.PROXIES))
    flags.add_argument("--replicas", type=int, default=3)
    flags.add_argument("--rounds", type=int, default=3, help="times that each is replaced")
    flags.add_argument("--requests_per_second", type=float, default=REQUESTS_PER_SECOND)
    given = flags.parse_args(argv)
    holds = True
    for proxy in given.proxy:
        for drain in (True, False):
            seen, verdicts = soak(proxy, given.replicas, given.rounds, given.requests_per_second, drain=drain)
            counts: dict[str, object] = {
                "replicas": f"{given.replicas}, each replaced {given.rounds} times",
                "statuses": dict(sorted(seen.statuses.items())),
            }
            title = f"replicas replaced behind {proxy}, {'as they come' if drain else 'without a drain'}"
            holds &= report(title, verdicts if drain else [control(seen)], counts)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
