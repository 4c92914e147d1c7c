"""What neighbours in a trace one kernel does together: a sum, and the norm that it is put through at once.

Each layer of a transformer adds what it computed to its input, and the norm behind that reads the sum again. Nothing
changes in the result, which stays the same to the last bit. Knows graphs and norms, not models.
"""

import operator

import torch
from torch import Tensor
from torch.fx import Graph, Node

from reward_model.leaves import LEAF, Notes
from reward_model.norms import PackedNorm


def fuse_sums_into_norms(graph: Graph, notes: Notes) -> None:
    """Has norms add what they are the norms of.

    Args:
        graph: in which leaves are still numbers.
        notes: the leaves.
    """
    for node in list(graph.nodes):
        if node.target is not LEAF:
            continue
        index, tensors = node.args
        owner = notes.leaves[index].owner
        if isinstance(owner, PackedNorm) and _is_plain_sum(tensors[0]):
            _fuse(graph, owner, tensors[0], node)


def _is_plain_sum(node: Node) -> bool:
    """Of two tensors that are like their sum."""
    if node.target is not torch.ops.aten.add.Tensor or node.kwargs:
        return False
    like = node.meta["val"]
    values = (one.meta.get("val") if isinstance(one, Node) else None for one in node.args)
    return all(isinstance(one, Tensor) and (one.shape, one.dtype) == (like.shape, like.dtype) for one in values)


def _fuse(graph: Graph, norm: PackedNorm, total: Node, normed: Node) -> None:
    # Where the sum was: others may use it before the norm does.
    with graph.inserting_after(total):
        if len(total.users) == 1:
            both = graph.call_function(norm.norm.of_sum, total.args)
            both.meta = normed.meta
            normed.replace_all_uses_with(both)
            return
        both = graph.call_function(norm.norm.of_kept_sum, total.args)
    with graph.inserting_after(both):
        parts = [graph.call_function(operator.getitem, (both, place)) for place in (0, 1)]
    for plain, part in zip((total, normed), parts, strict=True):
        part.meta = plain.meta
        plain.replace_all_uses_with(part)
