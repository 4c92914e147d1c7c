"""Layer and RMS norms for scoring in one pass: in bf16 on a CPU by our own kernel, in csrc/norm.c, on a GPU by torch's.

transformers writes an RMS norm as half a dozen operations, each of which reads and writes all states. Which of the two
a module is, is tried. Knows modules and rows, not models.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reward_model.compiled import is_compiled_for, shared_object
from reward_model.leaves import leaf

#: Share of what a value consists of by which it may differ: a few roundings to bf16, and to fp32.
_ROUNDING = {torch.bfloat16: 0.02, torch.float32: 1e-4}


@dataclass(frozen=True, slots=True)
class Norm:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias.

    Attributes:
        weight, bias: [size], in fp32 for our own kernel, for torch's as the rows are.
        epsilon: as above.
        centred: a layer norm (Ba et al. 2016, arXiv 1607.06450); else the mean is 0 (RMS norm, Zhang and Sennrich 2019,
            arXiv 1910.07467).
    """

    weight: Tensor
    bias: Tensor
    epsilon: float
    centred: bool

    def __call__(self, x: Tensor) -> Tensor:
        """[..., size] -> the same."""
        if not is_compiled_for(x.device, x.dtype):
            return self._by_torch(x)
        return self._in_one_pass(x)

    def of_sum(self, x: Tensor, y: Tensor) -> Tensor:
        """The norm of x + y, of the same shape, to the last bit."""
        if not is_compiled_for(x.device, x.dtype):
            return self._by_torch(x + y)
        return self._in_one_pass(x, y)

    def of_kept_sum(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of x and y, of the same shape, and its norm, to the last bit."""
        if not is_compiled_for(x.device, x.dtype):
            return (total := x + y), self._by_torch(total)
        total = torch.empty_like(x, memory_format=torch.contiguous_format)
        return total, self._in_one_pass(x, y, total)

    def _in_one_pass(self, x: Tensor, y: Tensor | None = None, total: Tensor | None = None) -> Tensor:
        """Of x, or x + y, which is written to `total`."""
        kernels, size = shared_object(), x.shape[-1]
        assert kernels is not None
        assert size == len(self.weight)
        assert y is None or (y.shape, y.dtype) == (x.shape, x.dtype)
        rows = x if x.is_contiguous() else x.reshape(-1, size)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        y = y if y is None else y.contiguous()
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        pointers = (None if one is None else one.data_ptr() for one in (rows, y, total, out, self.weight, self.bias))
        stride = size if rows.dim() != 2 else rows.stride(0)
        numbers = (x.numel() // size, size, stride)
        kernels.reward_model_norm(*pointers, *numbers, self.epsilon, self.centred, torch.get_num_threads())
        return out

    def _by_torch(self, x: Tensor) -> Tensor:
        size = list(self.weight.shape)
        if self.centred:
            return F.layer_norm(x, size, self.weight, self.bias, self.epsilon)
        return F.rms_norm(x, size, self.weight, self.epsilon)


def _empty(_: "PackedNorm", x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class PackedNorm(nn.Module):
    """A norm without gradients, in place of the module that it was found in."""

    def __init__(self, norm: Norm, plain: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        # In a tuple it is no child: nobody counts its weights twice.
        self.plain = (plain,)

    @leaf(_empty)
    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> the same."""
        return self.norm(x)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"size={len(self.norm.weight)}, centred={self.norm.centred}"


@torch.no_grad()
def pack_norms(model: nn.Module) -> bool:
    """Replaces the norms below `model`, which can only score from then on.

    Returns:
        Whether there were any.
    """
    packed: dict[nn.Module, PackedNorm | None] = {}
    for parent, name, child in _children(model):
        if child not in packed:
            norm = _norm_of(child)
            packed[child] = None if norm is None else PackedNorm(norm, child)
        if (own := packed[child]) is not None:
            setattr(parent, name, own)
    return any(own is not None for own in packed.values())


def unpack_norms(model: nn.Module) -> None:
    """Takes back what `pack_norms` did."""
    for parent, name, child in _children(model):
        if isinstance(child, PackedNorm):
            setattr(parent, name, child.plain[0])


def _children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]


def _norm_of(module: nn.Module) -> Norm | None:
    """What `module` computes, if it is a norm of rows that one pass can compute."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    epsilon = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(epsilon, float):
        return None
    if weight.dtype not in _ROUNDING:
        return None
    native = is_compiled_for(weight.device, weight.dtype)
    if not native and not _fused_by_torch(weight.device):
        return None
    factor = weight.float()
    shift = bias.float() if isinstance(bias, Tensor) else torch.zeros_like(factor)
    if shift.shape != factor.shape:
        return None
    # Gemma's weights are what is added to one.
    ways = [Norm(one, shift, epsilon, centred) for one in (factor, 1 + factor) for centred in (True, False)]
    if not native:
        # In the rows' dtype, as torch wants them; what is added to one may need more digits than that has.
        ways = [
            replace(one, weight=one.weight.to(weight.dtype), bias=shift.to(weight.dtype))
            for one in ways
            if torch.equal(one.weight, one.weight.to(weight.dtype).float())
        ]
    return next((norm for norm in ways if _same(norm, module, weight)), None)


def _fused_by_torch(device: torch.device) -> bool:
    return device.type == "cuda"


def _same(norm: Norm, module: nn.Module, like: Tensor) -> bool:
    """Tries both on rows with a mean, and on some so small that epsilon counts."""
    x = torch.linspace(-1.0, 2.0, 4 * len(norm.weight)).sin().view(4, -1) * torch.tensor([[1.0], [3.0], [1e-2], [1e-3]])
    x = x.to(like)
    try:
        expected = module(x)
    except Exception:  # noqa: BLE001 - it has another signature, so it is something else
        return False
    if not isinstance(expected, Tensor) or expected.shape != x.shape or expected.dtype != x.dtype:
        return False
    # Column by column: a large weight must not hide that the others are meant otherwise.
    terms = expected.abs() + norm.weight.abs() + norm.bias.abs()
    return bool(((norm(x) - expected).abs() <= _ROUNDING[x.dtype] * terms).all())
