"""All that is to be measured where there is a GPU: its tests, and speed beside the device's limits, part by part.

    python -m benchmarks.gpu [--parts throughput small ...] [--output_file gpu.json]

A part that fails says so and the others go on; the exit code is then 1. Models have real shapes and random weights, so
nothing is downloaded. All of it should take ten minutes. `--device cpu` tries the parts out on a tiny model.
"""

import argparse
import gc
import importlib.util
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.gpu import attention, lengths, models, served, shared, small, throughput, training
from benchmarks.gpu import device as limits

ROOT = Path(__file__).parents[2]
#: Those that need nothing of the service but its scorer.
TESTS = (
    "tests/test_gpu.py",
    *(f"tests/reward_model/test_{name}.py" for name in ("attention", "launch", "pointwise", "graphs")),
)


def main() -> None:
    """Runs the parts named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no part begins after so many")
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    flags = parser.parse_args()
    device = torch.device(flags.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu only tries the parts out")
    described = machine.describe() | limits.describe(device) | {"dtype": flags.dtype}
    print("\n".join(f"{name}: {value}" for name, value in described.items()), flush=True)
    figures: dict[str, object] = {"machine": described}
    until = time.monotonic() + flags.seconds
    failed = [name for name in flags.parts if not _run(name, device, flags, figures, until)]
    if failed:
        sys.exit(f"failed or left out: {', '.join(failed)}")


def _run(name: str, device: torch.device, flags: argparse.Namespace, figures: dict[str, object], until: float) -> bool:
    """Adds what a part measures to `figures`; whether all of it was measured."""
    started = time.monotonic()
    if started > until:
        return False
    rows: list[object] = []
    figures[name] = rows
    try:
        for measured in PARTS[name](device, flags):
            rows.append(measured)
            _free(device)
    except Exception:  # noqa: BLE001 - whatever one part stumbles over, the device is there now: the others are measured
        traceback.print_exc()
        return False
    finally:
        _free(device)
        print(f"\n[{name}: {time.monotonic() - started:.0f} s]", flush=True)
        if flags.output_file:
            flags.output_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return True


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _tests(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:  # noqa: ARG001
    """What pytest says of the tests marked `gpu`.

    Raises:
        RuntimeError: some failed.
    """
    if importlib.util.find_spec("pytest") is None:
        yield "pytest is not installed"
        return
    # Warnings of other releases than those that this project pins are not what is asked here.
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-W", "default", "--timeout", "60"]
    command = [sys.executable, "-m", "pytest", *options, *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)  # noqa: S603
    print(f"\n{done.stdout[-4000:]}{done.stderr[-2000:]}", flush=True)
    if done.returncode:
        msg = f"pytest ended with status {done.returncode}"
        raise RuntimeError(msg)
    yield done.stdout.splitlines()[-1]


def _shape(device: torch.device, name: str) -> str:
    return name if device.type == "cuda" else "tiny"


def _limits(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    found = {"matrix products, TFLOP/s": limits.matrix_peak(device, getattr(torch, flags.dtype)) / 1e12}
    found["memory, TB/s"] = limits.bandwidth(device) / 1e12
    print("\n" + "\n".join(f"{name}: {value:.2f}" for name, value in found.items()))
    yield found


def _throughput(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    dtype = getattr(torch, flags.dtype)
    peak = limits.matrix_peak(device, dtype)
    for name, kind, tokens in CASES:
        shape = _shape(device, name)
        ids = lengths.sequences(
            tokens if device.type == "cuda" else [min(40, n) for n in tokens[:8]],
            vocabulary=models.SHAPES[shape]["vocab_size"],
        )
        yield throughput.measure(throughput.Case(shape, kind, ids, flags.rounds), device, dtype, peak)


def _small(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    times = 200 if device.type == "cuda" else 5
    for name in dict.fromkeys(_shape(device, name) for name in ("qwen3-0.6b", "modernbert-base")):
        yield name, small.measure(name, device, getattr(torch, flags.dtype), times=times)


def _shared(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    dtype, shape = getattr(torch, flags.dtype), _shape(device, "qwen3-0.6b")
    yield shared.measure(shape, device, dtype, flags.rounds)
    yield shared.measure_many(shape, device, dtype, flags.rounds, 20 if device.type == "cuda" else 2)
    yield shared.measure_deterministic(shape, device, dtype, flags.rounds)


def _attention(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    count = 128 if device.type == "cuda" else 4
    yield attention.measure(device, getattr(torch, flags.dtype), flags.rounds, count)


def _served(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    count = 8000 if device.type == "cuda" else 300
    yield served.measure(_shape(device, "qwen3-0.6b"), device, getattr(torch, flags.dtype), flags.rounds, count)


def _training(device: torch.device, flags: argparse.Namespace) -> Iterator[object]:
    yield training.measure(_shape(device, "qwen3-0.6b"), device, flags.rounds)


#: Shape, name of the lengths, lengths; what matters most comes first.
CASES: tuple[tuple[str, str, list[int]], ...] = (
    ("qwen3-0.6b", "300 tokens", [300] * 512),
    ("llama-3.1-8b", "1,024 tokens", [1024] * 64),
    ("qwen3-0.6b", "lengths like HH-RLHF's", lengths.like_hh(512)),
    ("modernbert-base", "lengths like HH-RLHF's", lengths.like_hh(1024)),
    ("deberta-v3-large", "lengths like HH-RLHF's", lengths.like_hh(512)),
    ("llama-3.2-1b", "lengths like HH-RLHF's", lengths.like_hh(512)),
)
#: In the order of what is most worth knowing; a graph that cannot be captured may harm what comes after it.
PARTS: dict[str, Callable[[torch.device, argparse.Namespace], Iterator[object]]] = {
    "limits": _limits,
    "throughput": _throughput,
    "shared": _shared,
    "training": _training,
    "tests": _tests,
    "served": _served,
    "small": _small,
    "attention": _attention,
}


if __name__ == "__main__":
    main()
