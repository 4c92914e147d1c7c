r"""What a recipe learns with this project and with TRL's `RewardTrainer`, judged pair by pair on the same test pairs.

    python -m benchmarks.peers install trl
    python -m benchmarks.agreement --model_name_or_path M --dataset_name train.jsonl.gz --eval_dataset_name E \
        --test_dataset_name T --count 4000 --seeds 0 1 -- --max_length 512 --bf16 true

Both begin with the same weights, head included, and learn the same tokens in the same batches and order, of pairs that
nobody has to cut or drop; the flags after -- go to both. Only `training.evaluate` judges, with `--baseline` for TRL's
model. Knows commands and preference data, not losses.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.long_prompts import Pairs, longest
from benchmarks.peers.__main__ import ENVIRONMENTS
from reward_model.rendering import Renderer
from training.base import load_base
from training.order import Shuffled

_HEADER = """\
| seed | this project [95 % by prompt] | TRL RewardTrainer | difference, points | p | minutes |
|---|---|---|---|---|---|"""


def main() -> None:
    """Trains both for each seed, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="base model")
    parser.add_argument("--dataset_name", required=True, help="pairs to train on")
    parser.add_argument("--eval_dataset_name", required=True, help="pairs for this project's calibration")
    parser.add_argument("--test_dataset_name", required=True, help="pairs that decide")
    parser.add_argument("--count", type=int, default=4000, help="pairs to train on, drawn by seed 0")
    parser.add_argument("--max_length", type=int, default=512, help="of both; longer pairs are left out")
    parser.add_argument("--batch", type=int, default=16, help="pairs of a step")
    parser.add_argument("--peer_batch", type=int, default=16, help="pairs that TRL computes at once")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the order, a run for each")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="of the peers")
    parser.add_argument(
        "--work", type=Path, default=Path(__file__).parent / ".work" / "agreement", help="for all files"
    )
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    parser.add_argument("flags", nargs="*", help="after --: flags for both trainers")
    flags = parser.parse_args()
    figures = measure(flags)
    if flags.output_file:
        flags.output_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Trains and judges once for each seed."""
    pairs = _prepare(flags)
    described = machine.describe()
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    print(f"pairs that fit: {len(pairs.pairs)}\n\n{_HEADER}", flush=True)
    results = []
    for seed in flags.seeds:
        results.append(_run(pairs, seed, flags) | {"seed": seed})
        print(_row(results[-1]), flush=True)
    return {"machine": described, "pairs": len(pairs.pairs), "results": results}


def _row(result: dict[str, Any]) -> str:
    low, high = result["accuracy_interval"]
    peer = result["baseline"]
    below, above = (100 * bound for bound in peer["difference_interval"])
    minutes = " / ".join(f"{one:.1f}" for one in result["minutes"])
    return (
        f"| {result['seed']} | {result['accuracy']:.1%} [{low:.1%}, {high:.1%}] | {peer['accuracy']:.1%}"
        f" | {100 * peer['difference']:+.1f} [{below:+.1f}, {above:+.1f}] | {peer['p_value']:.2g} | {minutes} |"
    )


def _prepare(flags: argparse.Namespace) -> Pairs:
    """Writes the base with its head and template, and draws the pairs."""
    flags.work.mkdir(parents=True, exist_ok=True)
    base = load_base(flags.model_name_or_path)
    base.network.save_pretrained(flags.work / "base")
    base.tokenizer.save_pretrained(flags.work / "base")
    size = len(base.tokenizer)
    renderer = Renderer(base.tokenizer, rendering="chat_template", max_length=flags.max_length, vocab_size=size)
    fitting = longest(flags.dataset_name, renderer, sys.maxsize)
    drawn = sorted(random.Random(0).sample(range(len(fitting.pairs)), min(flags.count, len(fitting.pairs))))
    pairs = Pairs(tuple(fitting.pairs[i] for i in drawn), tuple(fitting.examples[i] for i in drawn))
    pairs.write(flags.work / "pairs.jsonl")
    return pairs


def _run(pairs: Pairs, seed: int, flags: argparse.Namespace) -> dict[str, Any]:
    work: Path = flags.work
    ordered = [i for batch in Shuffled(len(pairs.pairs), flags.batch, seed=seed) for i in batch]
    Pairs(tuple(pairs.pairs[i] for i in ordered), ()).write(work / "ordered.jsonl")
    ours, peer = work / f"ours-{seed}", work / f"peer-{seed}"
    common = ["--max_length", str(flags.max_length), "--seed", str(seed), *flags.flags]
    minutes = [
        _timed(_ours(work, ours, flags) + common, work / "ours.log"),
        _timed(_peer(work, peer, flags) + common, work / "peer.log"),
    ]
    metrics = work / f"metrics-{seed}.json"
    judged = ["--model_name_or_path", str(ours), "--baseline", str(peer), "--dataset_name", flags.test_dataset_name]
    _timed([sys.executable, "-m", "training.evaluate", *judged, "--output_file", str(metrics)], work / "evaluate.log")
    result: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return result | {"minutes": minutes}


def _ours(work: Path, output: Path, flags: argparse.Namespace) -> list[str]:
    data = ["--dataset_name", str(work / "pairs.jsonl"), "--eval_dataset_name", flags.eval_dataset_name]
    kept = ["--keep_duplicates", "true", "--keep_leaks", "true"]  # as the peer does
    batch = ["--per_device_train_batch_size", str(flags.batch), "--output_dir", str(output)]
    return [sys.executable, "-m", "training.train", "--model_name_or_path", str(work / "base"), *data, *kept, *batch]


def _peer(work: Path, output: Path, flags: argparse.Namespace) -> list[str]:
    python = str(flags.environments / "trl" / "bin" / "python")
    files = {"record": work / "record.json", "model": work / "base", "pairs": work / "ordered.jsonl"}
    named = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    batches = {"per_device_train_batch_size": flags.peer_batch, "output_dir": output}
    batches["gradient_accumulation_steps"] = flags.batch // flags.peer_batch
    # What this project's defaults are, where they differ from TRL's.
    same = {"learning_rate": 5e-5, "num_train_epochs": 1, "lr_scheduler_type": "linear", "warmup_steps": 0.1}
    same |= {"weight_decay": 0.01, "report_to": "none", "save_strategy": "no", "gradient_checkpointing": False}
    given = batches | same | {"use_cpu": not torch.cuda.is_available(), "train_sampling_strategy": "sequential"}
    flagged = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return [python, "-m", "benchmarks.peers.trl_reward", *named, *flagged]


def _timed(command: Sequence[str], log_path: Path) -> float:
    """Runs a command; returns the minutes that it took."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    started = time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)  # noqa: S603
    if done.returncode:
        msg = f"{command[2]} ended with status {done.returncode}: see {log_path}"
        raise SystemExit(msg)
    return (time.monotonic() - started) / 60


if __name__ == "__main__":
    main()
