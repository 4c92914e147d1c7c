"""Small batches on a GPU as CUDA graphs: one call starts all kernels of a forward pass.

Python starts kernels one by one, which for few tokens takes longer than they do. So a forward pass is recorded at load
for each of few sizes of a row (CUDA C++ Programming Guide, "CUDA Graphs"); a batch is put into the smallest that holds
it, and what is left of that row is a sequence that nobody reads. Knows rows and their bounds, neither models nor
scores.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from reward_model.packing import PackedBatch, to_device
from reward_model.spans import Layout
from reward_model.varlen import layout_on_device

#: Tokens of a row: at most half as many again as are wanted.
SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
#: Sequences that a row has room for; the kernel of attention has blocks for each, whether it is there or not.
SLOTS = 8
#: Operations of a layer that a GPU does while Python starts the layer: 0.2 ms of 500 TFLOP/s. Not measured yet.
STARTED = 1e11


class Forward(Protocol):
    """Runs the backbone."""

    def __call__(self, row: Tensor, layout: Layout) -> Tensor:
        """Input ids, positions and segment ids, [3, T] int64 -> last hidden states [T, d]."""
        ...


#: Runs a function and gives what it returned, and what does it all again, into the same memory.
Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class Graph:
    """A recorded forward pass: what it reads, what it writes, and how to run it again.

    Attributes:
        row: [3, size] int64.
        bounds: [SLOTS + 2] int32, of the sequences, of the rest of the row, and of nothing.
        hidden: [size, d].
        replay: all kernels, on the current stream.
    """

    row: Tensor
    bounds: Tensor
    hidden: Tensor
    replay: Callable[[], None]


class Graphs:
    """Graphs of several sizes.

    Args:
        forward: what is recorded.
        sizes: of the rows, ascending.
        device: where it runs.
        record: how; by default as CUDA graphs that share their memory, since no two of them run at once.

    Raises:
        RuntimeError: it cannot be recorded, because it waits for the device, say.
    """

    def __init__(
        self, forward: Forward, sizes: Sequence[int], device: torch.device, record: Record | None = None
    ) -> None:
        self.sizes = tuple(sizes)
        self._device = device
        self._one_at_a_time = threading.Lock()
        # Tensors of inference mode could not be written to outside of it.
        with torch.inference_mode(mode=False), torch.no_grad(), self._on_device():
            record = record or cuda_recorder()
            # The largest first: the others find room in its memory.
            self._graphs = {size: _recorded(forward, size, device, record) for size in reversed(self.sizes)}

    @property
    def most(self) -> int:
        """Tokens of the longest row."""
        return self.sizes[-1]

    def size_for(self, lengths: Sequence[int]) -> int | None:
        """The row that sequences of such lengths are computed in; None: there is none."""
        tokens = sum(lengths)
        if len(lengths) > SLOTS or tokens > self.sizes[-1]:
            return None
        return self.sizes[bisect_left(self.sizes, tokens)]

    def hidden_states(self, batch: PackedBatch, positions: Tensor) -> Tensor | None:
        """The last hidden states of all tokens, [T, d]; None where no graph holds the batch, or runs share prefixes.

        Args:
            batch: on the device, with nothing behind its runs.
            positions: [T] int64, as the model counts them.
        """
        bounds: list[int] = batch.cu_seqlens.tolist()
        size = None if batch.parents is not None else self.size_for([b - a for a, b in pairwise(bounds)])
        if size is None:
            return None
        return self.replayed(size, batch, positions)

    def replayed(self, size: int, batch: PackedBatch, positions: Tensor) -> Tensor:
        """The same in the row of `size`, which must hold the batch."""
        graph, tokens = self._graphs[size], int(batch.cu_seqlens[-1])
        bounds = batch.cu_seqlens.tolist()
        bounds += [size] * (SLOTS + 2 - len(bounds))
        with self._one_at_a_time, self._on_device():
            graph.bounds.copy_(to_device(torch.tensor(bounds, dtype=torch.int32), graph.bounds.device))
            graph.row.zero_()
            graph.row[0, :tokens] = batch.input_ids
            graph.row[1, :tokens] = positions
            if batch.segment_ids is not None:
                graph.row[2, :tokens] = batch.segment_ids
            graph.replay()
            return graph.hidden[:tokens].clone()

    def _on_device(self) -> AbstractContextManager[object]:
        """Streams and kernels are those of the current device unless told otherwise."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a model has other weights, which no graph has read: it has none."""
        return type(None), ()


def worthwhile_sizes(layers: int, parameters: int) -> tuple[int, ...]:
    """Sizes of rows that Python takes longer to start than the device to compute.

    Args:
        layers: of the model.
        parameters: of all its layers.
    """
    most = STARTED * layers / (2 * parameters)
    return tuple(size for size in SIZES if size <= most)


def cuda_recorder() -> Record:
    """Records CUDA graphs, all in one pool of memory, on the current device."""
    pool, aside = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        aside.wait_stream(torch.cuda.current_stream())
        # A recording that fails does not leave its stream by itself.
        with torch.cuda.stream(aside):
            # Libraries set themselves up at their first call, which must not be recorded.
            run()
            # Nor can what waits for the device be, and a recording that fails cannot be cleaned up.
            with _refusing_to_wait():
                run()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                hidden = run()
        torch.cuda.current_stream().wait_stream(aside)
        return hidden, graph.replay

    return record


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _recorded(forward: Forward, size: int, device: torch.device, record: Record) -> Graph:
    row = torch.zeros(3, size, dtype=torch.int64, device=device)
    bounds = torch.tensor([0] + [size] * (SLOTS + 1), dtype=torch.int32, device=device)
    hidden, replay = record(lambda: forward(row, layout_on_device(bounds, size)))
    return Graph(row, bounds, hidden, replay)
