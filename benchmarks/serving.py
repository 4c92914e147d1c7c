"""The service beside its peers, over HTTP: the same model, the same samples, one sample in a request.

    python -m benchmarks.peers install
    python -m benchmarks.serving --dataset_name pairs.jsonl.gz --source hh_ [--plot docs/serving.svg]

All servers are started once and stand still but while they are measured. In every round each is asked by 32 and by 256
clients that send their next request when the last is answered (its capacity), and the engine scores the same samples in
this process. Then each gets requests at 50, 80 and 95 % of its own capacity at random times, and this service also at
the capacity of every peer. Client and server share the machine's cores, for everyone alike.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import uvloop

from benchmarks import machine, weights
from benchmarks.clients import Load, closed_loop, open_loop
from benchmarks.contestants import Contestant, Running, contestants, running
from benchmarks.engine import in_new_order, run_engine
from benchmarks.peers.__main__ import ENVIRONMENTS
from benchmarks.texts import HELD_OUT, Sample, samples
from benchmarks.timing import Sample as Figures
from benchmarks.timing import alternate
from reward_model import checkpoint
from reward_model.records import Conversation, as_prompt

CLIENTS = (32, 256)
SHARES = (0.5, 0.8, 0.95)
OURS = "this service"
IN_PROCESS = "engine, in process"


def main() -> None:
    """Measures and prints three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=str(HELD_OUT), help="preference data")
    parser.add_argument("--source", default="", help="only rows whose source starts like this")
    parser.add_argument("--count", type=int, default=512, help="different samples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, about")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of the peers' names; default: all")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="of the peers")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".work", help="for the model and logs")
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    flags = parser.parse_args()
    figures = measure(flags)
    if flags.output_file:
        flags.output_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if flags.plot:
        from benchmarks.plots import draw_serving  # noqa: PLC0415 - only who draws needs matplotlib

        draw_serving(figures, flags.plot)


def measure(flags: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    chosen = _chosen(flags.only)
    flags.work.mkdir(parents=True, exist_ok=True)
    texts = samples(flags.dataset_name, flags.count, source=flags.source)
    written = weights.write(flags.work, texts[:64])
    loaded = checkpoint.load(written.checkpoint)
    ids = [loaded.renderer.render(Conversation(as_prompt(one.prompt), one.response)).token_ids for one in texts]
    described = machine.describe() | {"dtype": loaded.model.precision.dtype_name}
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    print(f"{len(ids)} samples, {sum(map(len, ids)) / len(ids):.0f} tokens on average")
    with ExitStack() as stack:
        servers = {}
        for one in chosen:
            log = flags.work / f"{one.name.replace(' ', '-')}.log"
            server = stack.enter_context(running(one, written, flags.environments, log))
            with server.awake():
                pass  # and stopped
            servers[one.name] = server
        check_scores(servers, texts[:16])
        engine = in_new_order(partial(run_engine, loaded.model, budget=loaded.model.batch_tokens), ids)
        capacity = measure_capacity(servers, texts, partial(_rate, engine, len(ids)), flags)
        latency = measure_latency(servers, texts, capacity, flags)
    return {"machine": described, "capacity": capacity, "latency": latency}


def _chosen(beginnings: Sequence[str]) -> list[Contestant]:
    """This service and the peers whose names begin so; all of them where nothing is asked for.

    Raises:
        SystemExit: a beginning is nobody's.
    """
    everyone = contestants()
    for beginning in beginnings:
        if not any(one.name.startswith(beginning) for one in everyone):
            names = ", ".join(one.name for one in everyone)
            msg = f"--only: no server's name begins with {beginning!r}; there are {names}"
            raise SystemExit(msg)
    return [one for one in everyone if not beginnings or one.name.startswith((OURS, *beginnings))]


def _rate(run: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def check_scores(servers: dict[str, Running], texts: Sequence[Sample]) -> None:
    """Prints how far the servers' scores lie apart: they must all compute the same.

    Raises:
        SystemExit: one of them computes something else.
    """
    expected = torch.tensor(_scores(servers[OURS], texts))
    print("\nlargest distance from this service's scores, in their standard deviations:")
    for name, server in servers.items():
        distance = float((torch.tensor(_scores(server, texts)) - expected).abs().max() / expected.std())
        print(f"  {name}: {distance:.1e}")
        if distance > 0.2:
            msg = f"{name} computes something else than this service"
            raise SystemExit(msg)


def _scores(server: Running, texts: Sequence[Sample]) -> list[float]:
    with server.awake():
        return [server.ask(one) for one in texts]


def measure_capacity(
    servers: dict[str, Running], texts: Sequence[Sample], engine: Callable[[], float], flags: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Requests a second and latency of every server, all clients busy."""
    loads: dict[tuple[str, int], list[Load]] = {(name, n): [] for name in servers for n in CLIENTS}
    counts = dict.fromkeys(servers, 64)

    def run(name: str, connections: int) -> float:
        load = _closed(servers[name], texts, connections, max(counts[name], 2 * connections))
        loads[name, connections].append(load)
        counts[name] = max(64, int(flags.seconds * load.rate))
        return load.rate

    # The first round, which does not count, tells how many requests a measurement takes.
    candidates: dict[str, Callable[[], float]] = {f"{n} {name}": partial(run, name, n) for name, n in loads}
    rates = alternate(candidates | {IN_PROCESS: engine}, flags.rounds)
    print(f"\n{IN_PROCESS}: {_spread(rates[IN_PROCESS])} samples/s\n")
    print(
        "| server | clients | requests/s (low to high) | of the engine | this service faster by | p50, ms | p99, ms |"
    )
    print("|---|---|---|---|---|---|---|")
    table: dict[str, dict[str, float]] = {IN_PROCESS: {"rate": rates[IN_PROCESS].median}}
    for name, n in loads:
        rate = rates[f"{n} {name}"]
        ratio = _ratio(rates[f"{n} {OURS}"], rate)
        share = _ratio(rate, rates[IN_PROCESS])
        p50, p99 = (_percentile(loads[name, n][1:], percent) for percent in (50, 99))
        print(f"| {name} | {n} | {_spread(rate)} | {share.median:.0%} | {_spread(ratio)} | {p50:.0f} | {p99:.0f} |")
        table[f"{n} {name}"] = {"rate": rate.median, "low": rate.low, "high": rate.high, "p50": p50, "p99": p99}
    return table


def measure_latency(
    servers: dict[str, Running],
    texts: Sequence[Sample],
    capacity: dict[str, dict[str, float]],
    flags: argparse.Namespace,
) -> list[dict[str, object]]:
    """Latency at random arrivals: of every server below its own capacity, and of this one at that of its peers."""
    best = {name: max(capacity[f"{n} {name}"]["rate"] for n in CLIENTS) for name in servers}
    print("\n| server | requests/s | which is | p50, ms | p95, ms | p99, ms |")
    print("|---|---|---|---|---|---|")
    runs = [(name, share * best[name], f"{share:.0%} of its capacity") for name in servers for share in SHARES]
    runs += [(OURS, best[name], f"the capacity of {name}") for name in servers if name != OURS]
    rows: list[dict[str, object]] = []
    for name, rate, which in runs:
        load = _open(servers[name], texts, rate, max(100, int(2 * flags.seconds * rate)))
        milliseconds = {f"p{percent}": 1000 * load.percentile(percent) for percent in (50, 95, 99)}
        cells = " | ".join(f"{value:.0f}" for value in milliseconds.values())
        print(f"| {name} | {rate:.0f} | {which} | {cells} |", flush=True)
        rows.append({"server": name, "rate": rate, "which": which, **milliseconds})
    return rows


def _closed(server: Running, texts: Sequence[Sample], connections: int, count: int) -> Load:
    requests = [server.contestant.request(one) for one in texts]
    with server.awake():
        return uvloop.run(closed_loop(server.port, requests, connections=connections, count=count))


def _open(server: Running, texts: Sequence[Sample], rate: float, count: int) -> Load:
    requests = [server.contestant.request(one) for one in texts]
    with server.awake():
        return uvloop.run(open_loop(server.port, requests, rate=rate, count=count))


def _ratio(a: Figures, b: Figures) -> Figures:
    return Figures(tuple(x / y for x, y in zip(a.values, b.values, strict=True)))


def _percentile(loads: Sequence[Load], percent: int) -> float:
    """Milliseconds; the median of all rounds."""
    return 1000 * Figures(tuple(load.percentile(percent) for load in loads)).median


def _spread(figures: Figures) -> str:
    return f"{figures.median:.3g} ({figures.low:.3g} to {figures.high:.3g})"


if __name__ == "__main__":
    main()
