"""Is every answer right while a fifth of all clients hang up and one request in a hundred makes the model fail?

Clients with connections that they keep open send /score with one or several inputs, in all forms, and /compare. Each
hang-up comes at a random moment: before the body, in the middle of it, or while waiting. Each answer is compared with
what it must be, number by number, and each fault with the status that it must have. With --plant the service has a
defect, and the run must find it.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import uvloop

from benchmarks.soak import questions, servers
from benchmarks.soak.connections import Answer, Connection, Moment
from benchmarks.soak.plants import Plant
from benchmarks.soak.questions import Question
from benchmarks.soak.servers import Process
from benchmarks.soak.verdicts import Memory, Verdict, parser, report, stop, tell_progress

#: Of 100 requests.
HANG_UPS = 20
#: Longest that a client waits which hangs up while waiting.
PATIENCE_SECONDS = 0.1
#: The model's; a batch of waiting inputs forms, and the run is bounded by the service and not by this.
INPUTS_PER_SECOND = 4000.0
#: Bytes that all bodies may hold are a multiple of this: too few for what a run would lose if they were not given back.
BODY_BYTES = 65_536
PROBE_SECONDS = 0.2
SETTLE_SECONDS = 10.0
GROWTH = 0.02
#: Complaints that are printed; all are counted.
SHOWN = 5


@dataclass(slots=True)
class Tally:
    """What a run came to so far."""

    total: int
    begun: int = 0
    done: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    hang_ups: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    probes: Counter[int] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)

    def count(self, question: Question, answer: Answer, request_id: str) -> None:
        """Takes in an answer."""
        self.answers[f"{question.path} {answer.status} {question.fault or ''}".rstrip()] += 1
        complaint = question.complaint(answer)
        if complaint is None and answer.headers.get("x-request-id") != request_id:
            complaint = f"the request id of another request: {answer.headers.get('x-request-id')}"
        if complaint is not None:
            self.complaints.append(f"request {request_id}: {complaint}")


async def run(process: Process, total: int, clients: int, seed: int) -> Tally:
    """Sends `total` requests and watches the process meanwhile."""
    tally = Tally(total)
    watch = asyncio.create_task(_watch(process, tally))
    progress = asyncio.create_task(
        tell_progress(
            lambda: f"{tally.done} of {total}, {len(tally.complaints)} wrong, {process.resident_bytes() >> 20} MiB"
        )
    )
    try:
        await asyncio.gather(*(_client(process.port, tally, random.Random(f"{seed}/{i}")) for i in range(clients)))
    finally:
        await stop(watch, progress)
    return tally


async def _client(port: int, tally: Tally, rng: random.Random) -> None:
    connection = await Connection.open(port)
    while tally.begun < tally.total:
        tally.begun += 1
        request_id = str(tally.begun)
        if connection.closed:
            connection = await Connection.open(port)
        question = questions.ask(rng)
        try:
            await _send(connection, question, request_id, tally, rng)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            tally.complaints.append(f"request {request_id}: the server has closed the connection: {error!r}")
            connection.close()
        tally.done += 1
    connection.close()


async def _send(connection: Connection, question: Question, request_id: str, tally: Tally, rng: random.Random) -> None:
    headers = {"X-Request-Id": request_id}
    if rng.randrange(100) >= HANG_UPS:
        tally.count(question, await connection.post(question.path, question.body, headers), request_id)
        return
    moment = rng.choice(list(Moment))
    patience = rng.uniform(0, PATIENCE_SECONDS)
    answer = await connection.abandon(question.path, question.body, headers, moment, patience)
    if answer is None:
        tally.hang_ups[moment.value] += 1
    else:
        tally.count(question, answer, request_id)
    connection.close(reset=rng.random() < 0.5)


async def _watch(process: Process, tally: Tally) -> None:
    """Samples memory and asks whether the process lives and is ready."""
    with closing(await Connection.open(process.port)) as connection:
        while True:
            tally.memory.append((tally.done / tally.total, process.resident_bytes()))
            for path in ("/livez", "/readyz"):
                tally.probes[(await connection.get(path)).status] += 1
            await asyncio.sleep(PROBE_SECONDS)


async def settled(process: Process, files: int) -> list[Verdict]:
    """Whether everything that requests held has been given back soon after the last of them."""
    names = ("reward_queue_sequences", "reward_queue_tokens")
    for _ in range(int(SETTLE_SECONDS / 0.1)):
        values = [process.gauge(name) for name in names]
        open_files = process.open_files()
        if not any(values) and open_files <= files:
            break
        await asyncio.sleep(0.1)
    return [
        Verdict("nothing waits afterwards", not any(values), str(dict(zip(names, values, strict=True)))),
        Verdict("all sockets are closed", open_files <= files, f"{open_files} open files, {files} before"),
    ]


def judge(tally: Tally, total: int) -> list[Verdict]:
    """What the answers say."""
    shown = "".join(f"\n        {one}" for one in tally.complaints[:SHOWN])
    wrong = len(tally.complaints)
    answered = sum(tally.answers.values())
    probes = ", ".join(f"{count} times {status}" for status, count in tally.probes.items())
    return [
        Verdict("every answer is right", not wrong, f"{wrong} of {answered} answers are wrong{shown}"),
        Verdict(
            "every request was answered or given up",
            answered + sum(tally.hang_ups.values()) == total,
            f"{answered} answered, {sum(tally.hang_ups.values())} given up, {total} sent",
        ),
        Verdict("/livez and /readyz are 200 throughout", set(tally.probes) == {200}, probes),
        Memory(tally.memory).verdict(GROWTH),
    ]


def soak(total: int, clients: int, seed: int, plant: Plant | None, leaked_bytes: int) -> tuple[Tally, list[Verdict]]:
    """Runs against a process of its own, and judges."""
    flags = ["--max-body-bytes", str(BODY_BYTES), "--drain-seconds", "5"]
    with servers.stub(
        inputs_per_second=INPUTS_PER_SECOND, plant=plant, leaked_bytes=leaked_bytes, flags=flags
    ) as process:
        files = process.open_files()
        tally = uvloop.run(run(process, total, clients, seed))
        verdicts = [*judge(tally, total), *uvloop.run(settled(process, files))]
        process.tell_to_end()
        code, drained = process.end(), process.logged('"drained"')
        seen = f"exit code {code}, drained: {drained}"
        return tally, [*verdicts, Verdict("SIGTERM finds nothing in flight", code == 0 and drained, seen)]


def found(plant: Plant, verdicts: Sequence[Verdict]) -> bool:
    """Whether the verdict that `plant` must break is broken."""
    sign = {Plant.LEAK: "resident memory", Plant.CROSSED: "every answer is right"}[plant]
    return any(verdict.name.startswith(sign) and not verdict.holds for verdict in verdicts)


def main(argv: list[str]) -> int:
    """Runs; 0 if all holds, or if what was planted was found."""
    flags = parser(__doc__)
    flags.add_argument("--requests", type=int, default=100_000)
    flags.add_argument("--clients", type=int, default=64, help="connections at once")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--plant", type=Plant, choices=list(Plant), help="a defect that must be found")
    flags.add_argument("--leaked_bytes", type=int, default=256, help="of each input, with --plant leak")
    given = flags.parse_args(argv)
    tally, verdicts = soak(given.requests, given.clients, given.seed, given.plant, given.leaked_bytes)
    counts: dict[str, object] = {"requests": given.requests, "clients": given.clients, "seed": given.seed}
    counts |= {"answers": dict(sorted(tally.answers.items())), "hang-ups": dict(tally.hang_ups)}
    holds = report("answers under faults and hang-ups", verdicts, counts)
    if given.plant is not None:
        holds = found(given.plant, verdicts)
        print(f"\nthe planted defect ({given.plant}) is {'found, as it must be' if holds else 'NOT FOUND'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
