"""Responses to one prompt: the prompt computed once, or with each of them; and what deterministic mode costs.

One group by itself says what its caller waits for, many groups in a row what a training loop gets.
"""

from functools import partial

import torch

from benchmarks.gpu import device as limits
from benchmarks.gpu import lengths, models
from benchmarks.gpu.throughput import run_launched
from benchmarks.prefixes import run as run_batch

#: Tokens of the prompt and of a response, and how many responses.
GROUPS = ((1000, 150, 16), (512, 128, 16), (200, 200, 4))


def measure(shape: str, device: torch.device, dtype: torch.dtype, rounds: int) -> list[dict[str, float]]:
    """Prints a table and returns its figures."""
    model = models.engine(shape, device, dtype)
    exact = models.engine(shape, device, torch.float32)
    vocabulary = models.SHAPES[shape]["vocab_size"]
    print(f"\n{shape}; errors: distance from unshared fp32 scores, in their standard deviations\n")
    print("| prompt | response | responses | unshared, ms | shared, ms | faster by | limit | error | error shared |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for prompt, response, count in GROUPS:
        sequences = lengths.responses(prompt, response, count, vocabulary=vocabulary)
        right = torch.tensor(run_batch(exact, sequences, share_prefixes=False))
        ways = {
            name: partial(run_batch, model, sequences, share_prefixes=name == "shared")
            for name in ("unshared", "shared")
        }
        errors = {name: float((torch.tensor(way()) - right).abs().max() / right.std()) for name, way in ways.items()}
        sample = limits.in_turns(dict(ways), rounds, device)
        ratios = sorted(a / b for a, b in zip(sample["unshared"].values, sample["shared"].values, strict=True))
        limit = count * (prompt + response) / (prompt + count * response)
        ratio = ratios[len(ratios) // 2]
        print(
            f"| {prompt} | {response} | {count} | {1e3 * sample['unshared'].median:.1f} |"
            f" {1e3 * sample['shared'].median:.1f} | {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {limit:.2f} |"
            f" {errors['unshared']:.1e} | {errors['shared']:.1e} |",
            flush=True,
        )
        rows.append(
            {"prompt": prompt, "response": response, "responses": count, "ratio": ratio, "limit": limit, **errors}
        )
    return rows


def measure_many(shape: str, device: torch.device, dtype: torch.dtype, rounds: int, groups: int) -> dict[str, float]:
    """Prints and returns how much faster many groups of the first kind are than as many that have nothing in common."""
    model = models.engine(shape, device, dtype)
    vocabulary = models.SHAPES[shape]["vocab_size"]
    prompt, response, count = GROUPS[0]
    many = [
        ids
        for group in range(groups)
        for ids in lengths.responses(prompt, response, count, vocabulary=vocabulary, seed=2 * group)
    ]
    apart = [[1 + place % (vocabulary - 1), *ids[1:]] for place, ids in enumerate(many)]
    sample = limits.in_turns(
        {
            "shared": partial(run_launched, model, many, 5 * count * (prompt + response)),
            "unshared": partial(run_launched, model, apart, 16_384),
        },
        rounds,
        device,
    )
    ratio = sample["unshared"].median / sample["shared"].median
    rate = len(many) / sample["shared"].median
    print(
        f"\n{groups} groups of {count} in a row: {rate:.0f} sequences/s, {ratio:.2f} times as many as without sharing"
    )
    return {"rate": rate, "ratio": ratio}


def measure_deterministic(shape: str, device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Prints and returns by how much deterministic mode is slower on mixed lengths."""
    sequences = lengths.sequences(lengths.like_hh(128), vocabulary=models.SHAPES[shape]["vocab_size"])
    ways = {
        name: partial(run_launched, models.engine(shape, device, dtype, deterministic=deterministic), sequences, 16_384)
        for name, deterministic in (("packed", False), ("deterministic", True))
    }
    sample = limits.in_turns(dict(ways), rounds, device)
    cost = sample["deterministic"].median / sample["packed"].median
    print(f"\n{shape}, lengths like HH-RLHF's: deterministic mode takes {cost:.2f} times as long", flush=True)
    return {"cost": cost}
