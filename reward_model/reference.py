"""The score by definition: plain transformers, eager attention, fp32, one unpadded sequence at a time.

Slow on purpose. Everything faster is compared with this. Knows nothing of packing.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from reward_model.rendering import Rendered
from reward_model.scores import Scalarisation


class ReferenceModel:
    """Scores single sequences with the model's own `forward`.

    Args:
        network: an `AutoModelForSequenceClassification`, in fp32 for the score by definition; gets eager attention.
        scalarisation: how several labels become one reward.
    """

    def __init__(self, network: PreTrainedModel, scalarisation: Scalarisation | None = None) -> None:
        self._network = network
        nn.Module.eval(network)
        self._network.set_attn_implementation("eager")
        self._weights = torch.tensor((scalarisation or Scalarisation()).weights, dtype=torch.float64)

    @torch.inference_mode()
    def score(self, rendered: Rendered) -> float:
        """The reward of one rendered input."""
        device = self._network.device
        inputs = {"input_ids": torch.tensor([rendered.token_ids], device=device)}
        if rendered.segment_ids is not None:
            inputs["token_type_ids"] = torch.tensor([rendered.segment_ids], device=device)
        logits = self._network(**inputs).logits[0].cpu()
        return float(logits.double() @ self._weights)
