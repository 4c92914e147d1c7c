"""A forward pass as one flat list of torch's operations, without the Python of the modules that it goes through.

For a short input on a CPU that Python takes longer than what it calls, and threads that compute wait for each other in
it. So the model is run once on tensors that have no values and any number of tokens (make_fx, the tracer under
torch.export), and what it calls on the way is written down as one function. Nothing is compiled, and the states are
those of the modules to the last bit, but for where `absorbed` has a shorter way to them. A model that looks into
values, or does something else for other numbers of tokens, cannot be traced. Knows rows and their layouts, neither
models nor scores.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from reward_model.absorbed import FEWEST_FOR_EACH, FEWEST_TOKENS, absorb
from reward_model.fusion import fuse_sums_into_norms
from reward_model.leaves import LEAF, Notes, noting
from reward_model.packing import pack
from reward_model.spans import Layout, Span

#: Tokens and read tokens of a trace: any will do, if they differ from each other and from everything else.
_TOKENS, _READ = 37, 5
#: Share of the largest state by which a replay may differ; but for `absorbed` it is the same operations.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.05}
#: What a trace is tried with: the usual request, several sequences, a single token, more of them than it was made with.
_TRIED = ([[1, 2, 3]], [[1, 2, 3, 4], [5], [3, 2, 1]], [[2]], [[1 + i % 5, 2] for i in range(2 * _READ)])
#: So long that a trace goes without keys and values if it ever does.
_LONG = [[1 + i * j % 5 for j in range(FEWEST_FOR_EACH)] for i in range(FEWEST_TOKENS // FEWEST_FOR_EACH)]
#: The tracer changes classes and settings of torch for all threads while it runs.
_one_at_a_time = threading.Lock()
#: What stands for the spans of any batch.
_PLACE = Span(0, _TOKENS, ((0, _TOKENS),), 0)


class Forward(Protocol):
    """Runs the backbone."""

    def __call__(self, input_ids: Tensor, position_ids: Tensor, segment_ids: Tensor, layout: Layout) -> Tensor:
        """[1, T] int64 each -> last hidden states [T, d]."""
        ...


class Untraceable(Exception):
    """A forward pass is not the same operations for every batch."""


class Traced:
    """A traced forward pass.

    Args:
        forward: what is traced; it must go on existing as it is.
        reads: whether the layouts that it will get say which tokens are read.

    Attributes:
        absorbs: attention of tokens that are read makes no keys and values, see `absorbed`.

    Raises:
        Exception: whatever comes of running it without values; `Untraceable` among others.
    """

    def __init__(self, forward: Forward, *, reads: bool) -> None:
        self.reads = reads
        with _one_at_a_time, _leaving_no_garbage():
            self._replay, self.absorbs = _trace(forward, reads=reads)
        for sequences in (*_TRIED, _LONG) if self.absorbs else _TRIED:
            self._try(forward, sequences)

    def takes(self, layout: Layout) -> bool:
        """Whether it was traced for such layouts."""
        return (layout.read is not None) == self.reads

    def __call__(self, input_ids: Tensor, position_ids: Tensor, segment_ids: Tensor, layout: Layout) -> Tensor:
        """See `Forward`."""
        return self._replay(input_ids, position_ids, segment_ids, layout.rows, layout)

    @torch.inference_mode()
    def _try(self, forward: Forward, sequences: Sequence[Sequence[int]]) -> None:
        batch = pack(sequences)
        ends = [int(batch.cu_seqlens[run + 1]) - 1 for run in batch.ends.tolist()]
        layout = Layout.of(batch, ends if self.reads else None)
        row = (batch.input_ids[None], batch.position_ids[None], torch.zeros_like(batch.input_ids)[None])
        expected, measured = forward(*row, layout)[ends], self(*row, layout)[ends]
        error = float((measured - expected).abs().max() / expected.abs().max())
        # Written so that what is not a number does not pass.
        if not error <= _ROUNDING[expected.dtype]:
            msg = f"its states are off by {100 * error:.2g} % of the largest"
            raise Untraceable(msg)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a model has other weights than those in here: it has none."""
        return type(None), ()


def _trace(forward: Forward, *, reads: bool) -> tuple[Callable[..., Tensor], bool]:
    """A function of input, position and segment ids, the rows that are read, and the layout; see also `absorbs`."""

    def run(input_ids: Tensor, position_ids: Tensor, segment_ids: Tensor, rows: Tensor) -> Tensor:
        read = Layout((_PLACE,), rows.shape[0]) if reads else None
        layout = Layout((_PLACE,), input_ids.shape[1], read=read, rows=rows if reads else None)
        return forward(input_ids, position_ids, segment_ids, layout)

    ids = torch.zeros(1, _TOKENS, dtype=torch.int64)
    inputs = (ids, ids.clone(), ids.clone(), torch.arange(_READ))
    # Tensors of inference mode cannot be traced.
    with torch.inference_mode(mode=False), torch.no_grad(), noting() as notes, _quietly():
        module: GraphModule = make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    assert module.shape_env is not None
    if conditions := module.shape_env.guards:
        msg = f"it does something else for other numbers of tokens: {conditions[0].expr}"
        raise Untraceable(msg)
    absorbs = False
    if not any(_changes_its_arguments(node) for node in module.graph.nodes):
        _without_copies(module.graph)
        fuse_sums_into_norms(module.graph, notes)
        absorbs = absorb(module.graph, notes)
    _put_leaves(module.graph, notes)
    module.graph.eliminate_dead_code()
    return _function(module), absorbs


def _put_leaves(graph: Graph, notes: Notes) -> None:
    """Calls the leaves themselves, with the layout for those that want it."""
    last_input = next(node for node in reversed(graph.nodes) if node.op == "placeholder")
    with graph.inserting_after(last_input):
        layout = graph.placeholder("layout")
    for node in graph.nodes:
        if node.target is LEAF:
            index, tensors = node.args
            leaf = notes.leaves[index]
            node.target, node.args = leaf.compute, (*tensors, *((layout,) if leaf.of_layout else ()))


def _without_copies(graph: Graph) -> None:
    """Takes out copies that nobody changes: a trace has one wherever there would be dropout in training."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.clone.default and not node.kwargs:
            node.replace_all_uses_with(node.args[0])


def _changes_its_arguments(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable  # noqa: SLF001 - no other way


def _function(module: GraphModule) -> Callable[..., Tensor]:
    """The graph as a function, which forgets each tensor after its last use."""
    code = module.graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<traced forward pass>", "exec"), names)  # noqa: S102 - as torch.fx does with its code
    constants = {node.target: getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"}
    # To look one up in a module takes as long as a small operation.
    # The function must not be among its own names, or it would outlive the model.
    holder, forward = SimpleNamespace(**constants), names.pop("forward")

    def run(*inputs: Any) -> Tensor:
        result: Tensor = forward(holder, *inputs)
        return result

    return run


@contextmanager
def _leaving_no_garbage() -> Iterator[None]:
    """Frees at once what tracing leaves behind: circles of objects, in which the weights hang.

    While nothing is collected all of it stays young, so that to go through the young ones is enough.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.collect(0)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's report of what could not be run; it is raised as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
