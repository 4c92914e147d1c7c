"""How fast reward models are trained, beside TRL's `RewardTrainer`: the same model, pairs, order, batches and flags.

    python -m benchmarks.peers install trl
    python -m benchmarks.training --dataset_name pairs.jsonl.gz [--dtype bfloat16] [--plot docs/training.svg]

A small causal model of random weights learns the pairs with the longest prompts that fit into its limit. Both sides run
as processes of their own, by turns, in the other order every other round, and note the clock at the end of each step,
so that start-up and reading do not count; the first steps of each run do not either. Both make the same number of pairs
a step. How many of them are computed at once is each side's own affair: ours by tokens, TRL's by `--peer_batch`, which
is worth trying out. Equal losses at the first steps say that both learn from the same tokens.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks import machine
from benchmarks.bases import write_decoder
from benchmarks.long_prompts import Pairs, longest
from benchmarks.peers.__main__ import ENVIRONMENTS
from benchmarks.texts import HELD_OUT
from benchmarks.timing import Sample
from reward_model.pretrained import load_tokenizer
from reward_model.rendering import Renderer
from training.order import Shuffled

MAX_LENGTH = 1024
#: Steps at the beginning of a run that do not count: they fill caches.
WARM_UP = 2
OURS, PEER = "this project", "TRL RewardTrainer"


@dataclass(frozen=True, slots=True)
class Record:
    """What one run noted.

    Attributes:
        rate: pairs a second over a median step.
        losses: of each step.
        megabytes: most memory resident.
    """

    rate: float
    losses: tuple[float, ...]
    megabytes: float


def main() -> None:
    """Trains by turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=str(HELD_OUT), help="preference data")
    parser.add_argument("--count", type=int, default=2000, help="pairs, those with the longest prompts")
    parser.add_argument("--steps", type=int, default=20, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="pairs of a step")
    parser.add_argument("--peer_batch", type=int, default=1, help="pairs that TRL computes at once")
    parser.add_argument("--max_batch_tokens", type=int, default=4096, help="tokens that this project computes at once")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of both")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="of the peers")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".work" / "training", help="for all files")
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw the losses there")
    flags = parser.parse_args()
    figures = measure(flags)
    if flags.output_file:
        flags.output_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if flags.plot:
        from benchmarks.plots import draw_training  # noqa: PLC0415 - only who draws needs matplotlib

        draw_training(figures, flags.plot)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Runs both sides by turns."""
    flags.work.mkdir(parents=True, exist_ok=True)
    pairs = _prepare(flags)
    described = machine.describe() | {"dtype": flags.dtype, "threads": str(torch.get_num_threads())}
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    unshared, shared = (pairs.tokens(share_prefixes=share) / len(pairs.pairs) for share in (False, True))
    prompt = fmean(pairs.prompt_tokens)
    print(
        f"{len(pairs.pairs)} pairs: prompts of {prompt:.0f} tokens; {unshared:.0f} tokens a pair, {shared:.0f} shared\n"
    )
    records: dict[str, list[Record]] = {OURS: [], PEER: []}
    for turn in range(flags.rounds):
        for name in (OURS, PEER) if turn % 2 == 0 else (PEER, OURS):
            records[name].append(_run(name, flags))
            one = records[name][-1]
            print(f"round {turn + 1}, {name}: {one.rate:.2f} pairs/s, {one.megabytes:.0f} MB", flush=True)
    return _summary(records, described)


def _summary(records: dict[str, list[Record]], described: dict[str, str]) -> dict[str, Any]:
    print("\n| trainer | pairs/s (low to high) | peak memory, MB |\n|---|---|---|")
    figures: dict[str, Any] = {"machine": described}
    for name, runs in records.items():
        rate, memory = Sample(tuple(one.rate for one in runs)), max(one.megabytes for one in runs)
        print(f"| {name} | {rate.median:.2f} ({rate.low:.2f} to {rate.high:.2f}) | {memory:.0f} |")
        figures[name] = {"rates": rate.values, "megabytes": memory, "losses": runs[0].losses}
    both = list(zip(records[OURS], records[PEER], strict=True))
    ratio = Sample(tuple(ours.rate / peer.rate for ours, peer in both))
    differences = [abs(a - b) for a, b in zip(both[0][0].losses, both[0][1].losses, strict=True)]
    print(f"\nfaster by {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), round by round")
    print(f"losses differ by {fmean(differences):.4f} on average, at most {max(differences):.4f}")
    return figures | {"ratios": ratio.values, "loss_differences": differences}


def _prepare(flags: argparse.Namespace) -> Pairs:
    """Writes the base model and the pairs: for the peer in the order in which this project draws them."""
    base = write_decoder(flags.work / "base")
    tokenizer = load_tokenizer(base)
    renderer = Renderer(tokenizer, rendering="chat_template", max_length=MAX_LENGTH, vocab_size=len(tokenizer))
    pairs = longest(flags.dataset_name, renderer, flags.count)
    if len(pairs.pairs) < flags.steps * flags.batch:
        msg = f"{len(pairs.pairs)} pairs are too few for {flags.steps} steps of {flags.batch}"
        raise SystemExit(msg)
    pairs.write(flags.work / "pairs.jsonl")
    order = [i for batch in Shuffled(len(pairs.pairs), flags.batch, seed=0) for i in batch]
    Pairs(tuple(pairs.pairs[i] for i in order), ()).write(flags.work / "ordered.jsonl")
    # This project always judges its model at the end, if only on a few pairs.
    Pairs(pairs.pairs[: flags.batch], ()).write(flags.work / "eval.jsonl")
    return pairs


def _run(name: str, flags: argparse.Namespace) -> Record:
    work: Path = flags.work
    record = work / "record.json"
    record.unlink(missing_ok=True)
    command = [*(_ours(flags) if name == OURS else _peer(flags)), *_common(flags)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    log_path = work / f"{'ours' if name == OURS else 'peer'}.log"
    with log_path.open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)  # noqa: S603
    if done.returncode or not record.exists():
        msg = f"{name} ended with status {done.returncode}: see {log_path}"
        raise SystemExit(msg)
    noted = json.loads(record.read_text(encoding="utf-8"))
    step = median([end - start for start, end in pairwise(noted["ended"])][WARM_UP:])
    return Record(flags.batch / step, tuple(noted["losses"][: flags.steps]), noted["peak_megabytes"])


def _common(flags: argparse.Namespace) -> list[str]:
    given = {
        "learning_rate": 1e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "max_length": MAX_LENGTH,
        "max_steps": flags.steps,
        "seed": 0,
        "bf16": flags.dtype == "bfloat16",
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "output_dir": flags.work / "out",
    }
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def _ours(flags: argparse.Namespace) -> list[str]:
    work: Path = flags.work
    data = ["--dataset_name", str(work / "pairs.jsonl"), "--eval_dataset_name", str(work / "eval.jsonl")]
    kept = ["--keep_duplicates", "true", "--keep_leaks", "true"]  # as the peer does
    batches = ["--per_device_train_batch_size", str(flags.batch), "--max_batch_tokens", str(flags.max_batch_tokens)]
    watched = [sys.executable, "-m", "benchmarks.watched", str(work / "record.json")]
    return [*watched, "--model_name_or_path", str(work / "base"), *data, *kept, *batches]


def _peer(flags: argparse.Namespace) -> list[str]:
    work: Path = flags.work
    python = str(flags.environments / "trl" / "bin" / "python")
    files = {"record": work / "record.json", "model": work / "base", "pairs": work / "ordered.jsonl"}
    named = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    accumulated = flags.batch // flags.peer_batch
    batches = [
        "--per_device_train_batch_size",
        str(flags.peer_batch),
        "--gradient_accumulation_steps",
        str(accumulated),
    ]
    best = ["--gradient_checkpointing", "false", "--use_cpu", "true", "--train_sampling_strategy", "sequential"]
    return [python, "-m", "benchmarks.peers.trl_reward", *named, *batches, *best]


if __name__ == "__main__":
    main()
