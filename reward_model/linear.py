"""Linear layers for scoring on a CPU: weights laid out once the way oneDNN multiplies, GELU in the same pass mostly.

torch's own `F.linear` lays its weights out anew for every bf16 call, and in fp32 calls MKL, which holds back on CPUs
that are not Intel's. The operators used here are those that torch.compile puts in for frozen weights; they have no
gradients and no documentation, so whether they work is tried. Knows matrices, not models.
"""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation
from transformers.pytorch_utils import Conv1D

from reward_model.leaves import leaf

log = logging.getLogger(__name__)

#: Rows that the layout is chosen for; measured to be good for any number.
_ROWS = 2048
#: Names of a linear layer and of the activation that follows it at once, in the layers of encoders.
_PAIRS = (("dense", "intermediate_act_fn"), ("lin1", "activation"))


def _empty(linear: "PackedLinear", x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], linear.out_features)


class PackedLinear(nn.Module):
    """An `nn.Linear` without gradients.

    Args:
        weight: [out, in].
        bias: [out], or None.
        gelu: whether the exact GELU of the result is wanted.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        self._bias = bias
        self.gelu = gelu
        # oneDNN's own layout: no tensor that anything else could read, so neither parameter nor buffer.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)  # noqa: SLF001

    @leaf(_empty)
    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        attribute, algorithm = ("gelu", "none") if self.gelu else ("none", "")
        result: Tensor = torch.ops.mkldnn._linear_pointwise.default(  # noqa: SLF001
            x, self._weight, self._bias, attribute, [], algorithm
        )
        return result

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Weight, [out, in], laid out as usual, and bias, [out]."""
        return self._weight.to_dense(), self._bias

    def unpacked(self) -> nn.Linear:
        """The plain layer."""
        weight, bias = self.dense()
        linear = nn.Linear(self.in_features, self.out_features, bias=bias is not None, dtype=weight.dtype)
        linear.weight.data = weight
        if bias is not None:
            linear.bias.data = bias
        return linear.requires_grad_(requires_grad=False)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, gelu={self.gelu}"


@torch.no_grad()
def pack_linears(model: nn.Module) -> bool:
    """Replaces the linear layers below `model`, which can only score from then on, and holds each weight once.

    Returns:
        Whether it was done: not where torch's operators do not work on this machine.
    """
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    linears = [(parent, name, child) for parent, name, child in found if type(child) in {nn.Linear, Conv1D}]
    if not linears or not _works(_weight(linears[0][2])):
        return False
    packed: dict[nn.Module, PackedLinear] = {}
    for parent, name, linear in linears:
        if linear not in packed:
            bias = linear.bias.detach() if isinstance(linear.bias, Tensor) else None
            packed[linear] = PackedLinear(_weight(linear), bias, gelu=_takes_gelu(parent, name))
        setattr(parent, name, packed[linear])
    return True


@torch.no_grad()
def unpack_linears(model: nn.Module) -> None:
    """Takes back what `pack_linears` did."""
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    plain: dict[nn.Module, nn.Linear] = {}
    for parent, name, child in found:
        if isinstance(child, PackedLinear):
            if child not in plain:
                plain[child] = child.unpacked()
            setattr(parent, name, plain[child])
            for linear, activation in _PAIRS:
                if name == linear and child.gelu:
                    setattr(parent, activation, nn.GELU())


def _weight(linear: nn.Module) -> Tensor:
    """[out, in]."""
    assert isinstance(linear.weight, Tensor)
    return linear.weight.detach().T if isinstance(linear, Conv1D) else linear.weight.detach()


def _takes_gelu(parent: nn.Module, name: str) -> bool:
    """Whether GELU follows at once; if so it is taken out of `parent`, so that it is not done twice.

    Not with AVX2 alone: there oneDNN's takes twice as long as torch's.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return False
    for linear, activation in _PAIRS:
        if name == linear and _is_exact_gelu(getattr(parent, activation, None)):
            setattr(parent, activation, nn.Identity())
            return True
    return False


def _is_exact_gelu(activation: object) -> bool:
    return type(activation) is GELUActivation or (type(activation) is nn.GELU and activation.approximate == "none")


def _works(like: Tensor) -> bool:
    """Tries the operators on small matrices of the weights' device and dtype."""
    if like.device.type != "cpu" or like.dtype not in {torch.float32, torch.bfloat16}:
        return False
    x, weight, bias = (torch.randn(shape).to(like.dtype) for shape in ((3, 16), (24, 16), (24,)))
    try:
        plain, gelu = PackedLinear(weight, bias)(x), PackedLinear(weight, bias, gelu=True)(x)
    except (RuntimeError, AttributeError):
        log.info("oneDNN's linear layers do not work here", exc_info=True)
        return False
    expected = F.linear(x.double(), weight.double(), bias.double())
    pairs = ((plain, expected), (gelu, F.gelu(expected)))
    return all(torch.allclose(measured.double(), exact, rtol=0.02, atol=0.05) for measured, exact in pairs)
