"""One layer's attention over a packed row of mixed lengths: the kernel in use, and what could be used instead."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu import device as limits
from benchmarks.gpu import lengths
from reward_model.attention import packed_attention
from reward_model.packing import pack
from reward_model.spans import Layout

#: Heads, key heads, head size, and whether tokens see only what comes before.
KINDS = {"qwen3-0.6b": (16, 8, 128, True), "llama-3.1-8b": (32, 8, 128, True), "modernbert-base": (12, 12, 64, False)}


class _Module(torch.nn.Module):
    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


def measure(device: torch.device, dtype: torch.dtype, rounds: int, count: int) -> list[dict[str, object]]:
    """Prints a table and returns its figures; `count` sequences make a row."""
    sizes = lengths.like_hh(count)
    print(f"\nattention of one layer, {len(sizes)} sequences, {sum(sizes)} tokens\n")
    print("| heads of | candidate | ms (low to high) |\n|---|---|---|")
    rows: list[dict[str, object]] = []
    for shape, (heads, key_heads, size, causal) in KINDS.items():
        q, k, v = (
            torch.randn(1, n, sum(sizes), size, device=device, dtype=dtype) for n in (heads, key_heads, key_heads)
        )
        runs = candidates(q, k, v, sizes, causal=causal)
        for name, one in limits.in_turns(runs, rounds, device).items():
            print(
                f"| {shape} | {name} | {1e3 * one.median:.3f} ({1e3 * one.low:.3f} to {1e3 * one.high:.3f}) |",
                flush=True,
            )
            rows.append({"shape": shape, "candidate": name, "ms": 1e3 * one.median})
    return rows


def candidates(
    q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[int], *, causal: bool
) -> dict[str, Callable[[], Tensor]]:
    """Each gives [tokens, heads, head_size]; q, k, v are [1, heads, tokens, head_size]."""
    layout = Layout.of(pack([[1] * size for size in sizes]).to(q.device))
    module = _Module(is_causal=causal)
    # In the order of the row, whose sequences stand by length.
    ordered = [span.queries for span in layout.spans]
    runs: dict[str, Callable[[], Tensor]] = {
        "in use": torch.inference_mode()(lambda: packed_attention(module, q, k, v, None, layout=layout)[0][0]),
        "padded SDPA": torch.inference_mode()(lambda: _padded(q, k, v, ordered, causal=causal)),
    }
    if q.is_cuda:
        runs["FlexAttention"] = _flex(q, k, v, ordered, causal=causal)
    return {name: run for name, run in runs.items() if _works(name, run)}


def _works(name: str, run: Callable[[], Tensor]) -> bool:
    try:
        run()
    except RuntimeError as error:
        print(f"{name} does not work here: {next(iter(str(error).splitlines()), '')}")
        return False
    return True


def _padded(q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[int], *, causal: bool) -> Tensor:
    """The row cut up, padded, computed with a mask, and put together again; a padded model has it so all along."""
    rows, keys, values = (
        pad_sequence(list(torch.split(one[0].transpose(0, 1), list(sizes))), batch_first=True).transpose(1, 2)
        for one in (q, k, v)
    )
    reached = torch.tensor(sizes, device=q.device)[:, None] > torch.arange(max(sizes), device=q.device)
    mask = reached[:, None, None, :]
    if causal:
        mask = mask & torch.ones(max(sizes), max(sizes), dtype=torch.bool, device=q.device).tril()
    keys, values = (one.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for one in (keys, values))
    result = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
    return result.transpose(1, 2)[reached]


def _flex(q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[int], *, causal: bool) -> Callable[[], Tensor]:
    documents = torch.repeat_interleave(torch.arange(len(sizes), device=q.device), torch.tensor(sizes, device=q.device))

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = documents[query] == documents[key]
        return own & (query >= key) if causal else own

    tokens = sum(sizes)
    mask = create_block_mask(visible, None, None, tokens, tokens, device=str(q.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped = q.shape[1] != k.shape[1]
    return torch.no_grad()(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=grouped)[0].transpose(0, 1))
