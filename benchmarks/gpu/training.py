"""Steps of training on pairs with long prompts: packed with the prompt computed once, and padded as in plain trainers.

Both sides have fp32 weights, autocast, the same loss and optimizer, and no checkpointed activations; what differs is
how a step's pairs are computed. Only the pairs of one step are in memory, so that neither waits for data.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu import device as limits
from benchmarks.gpu import lengths, models
from reward_model.model import RewardModel
from reward_model.packing import pack
from reward_model.precision import Precision
from training.losses import bradley_terry

#: Tokens of the prompts, of the responses at their longest, and pairs of a step.
PROMPT, RESPONSE, PAIRS = 1000, 200, 16
#: Sequences that the padded side computes at once, as far as memory goes; the best counts.
PADDED_AT_ONCE = (4, 8, 16, 32)
#: Tokens that the packed side computes at once.
PACKED_AT_ONCE = (8192, 16_384)


@dataclass(frozen=True, slots=True)
class Trained:
    """One way to make a step.

    Attributes:
        name: for the table.
        pairs_per_second: of a median step.
        gibibytes: most memory that tensors took; 0 where it is no GPU.
        loss: of the first step: the same for all ways, up to rounding.
    """

    name: str
    pairs_per_second: float
    gibibytes: float
    loss: float


def measure(shape: str, device: torch.device, rounds: int) -> list[dict[str, object]]:
    """Prints a table and returns its figures."""
    pairs = _pairs(models.SHAPES[shape]["vocab_size"])
    print(f"\n{shape}: steps of {PAIRS} pairs, prompts of {PROMPT} tokens, responses of up to {RESPONSE}\n")
    print("| way | pairs/s | most memory, GiB | loss of the first step |\n|---|---|---|---|")
    ways: dict[str, Callable[[], Callable[[], float]]] = {}
    for tokens in PACKED_AT_ONCE:
        ways[f"packed, {tokens} tokens at once"] = lambda tokens=tokens: packed(shape, pairs, device, tokens)  # type: ignore[misc]
    for size in PADDED_AT_ONCE:
        ways[f"padded, {size} sequences at once"] = lambda size=size: padded(shape, pairs, device, size)  # type: ignore[misc]
    rows: list[dict[str, object]] = []
    for name, make in ways.items():
        try:
            one = _trained(name, make, device, rounds)
        except torch.OutOfMemoryError:
            print(f"| {name} | does not fit | | |", flush=True)
            continue
        print(f"| {name} | {one.pairs_per_second:.2f} | {one.gibibytes:.1f} | {one.loss:.4f} |", flush=True)
        rows.append({"way": name, "rate": one.pairs_per_second, "gibibytes": one.gibibytes, "loss": one.loss})
    return rows


def _trained(name: str, make: Callable[[], Callable[[], float]], device: torch.device, rounds: int) -> Trained:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    step = make()
    loss = step()
    took = sorted(limits.seconds(step, device) for _ in range(rounds))
    most = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Trained(name, PAIRS / took[len(took) // 2], most, loss)


def _pairs(vocabulary: int) -> list[list[list[int]]]:
    """Chosen and rejected of each pair, one of them shorter."""
    found = []
    for place in range(PAIRS):
        one, other = lengths.responses(PROMPT, RESPONSE, 2, vocabulary=vocabulary, seed=2 * place)
        found.append([one, other[: len(other) - RESPONSE * (place % 4) // 5]])
    return found


def packed(shape: str, pairs: Sequence[list[list[int]]], device: torch.device, tokens: int) -> Callable[[], float]:
    """Steps of this project's model, with as many pairs at once as come to `tokens`."""
    model = RewardModel(models.network(shape, device), Precision(device, torch.float32, "of the benchmark")).train()
    size = max(1, tokens // (PROMPT + 2 * RESPONSE))

    def rewards(some: Sequence[list[list[int]]]) -> Tensor:
        sequences = [ids for pair in some for ids in pair]
        values: Tensor = model(pack(sequences, share_prefixes=model.backbone.shares_prefixes))[:, 0]
        return values

    return _stepping(model, rewards, pairs, size, device)


def padded(shape: str, pairs: Sequence[list[list[int]]], device: torch.device, sequences: int) -> Callable[[], float]:
    """Steps of transformers' model, with so many sequences at once, padded to the longest of them."""
    model = models.network(shape, device).train()

    def rewards(some: Sequence[list[list[int]]]) -> Tensor:
        ids = pad_sequence([torch.tensor(one) for pair in some for one in pair], batch_first=True).to(device)
        logits: Tensor = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]
        return logits

    return _stepping(model, rewards, pairs, max(1, sequences // 2), device)


def _stepping(
    model: nn.Module,
    rewards: Callable[[Sequence[list[list[int]]]], Tensor],
    pairs: Sequence[list[list[int]]],
    at_once: int,
    device: torch.device,
) -> Callable[[], float]:
    """A function that makes a step and returns its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")

    def step() -> float:
        losses = []
        for first in range(0, len(pairs), at_once):
            some = pairs[first : first + at_once]
            with torch.autocast(device.type, torch.bfloat16):
                scores = rewards(some).float()
            loss = bradley_terry(scores[::2], scores[1::2]).sum() / len(pairs)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        return float(torch.stack(losses).sum())

    return step
