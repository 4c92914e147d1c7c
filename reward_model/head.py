"""The head of a Hugging Face sequence classifier, over pooled states, and the scores that its labels come to.

Knows neither tokens nor batches.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from reward_model.backbone import shell
from reward_model.scores import Scalarisation, Score


def run_head(model: PreTrainedModel, pooled: Tensor) -> Tensor:
    """The head of any Hugging Face sequence-classification class, applied to pooled states [n, d].

    Rather than rewriting each family's head, its own `forward` runs over a backbone that returns the pooled states as
    sequences of one token, on which first token, last token and mean are the same thing.
    """
    if isinstance(score := getattr(model, "score", None), nn.Module):
        scored: Tensor = score(pooled)
        return scored
    base = getattr(model, model.base_model_prefix)
    head = shell(model, **{model.base_model_prefix: _PooledStates(base)})
    ones = torch.ones((len(pooled), 1), dtype=torch.int64, device=pooled.device)
    logits: Tensor = head(attention_mask=ones, inputs_embeds=pooled.unsqueeze(1)).logits
    return logits


class _PooledStates(nn.Module):
    """Stands in for the backbone inside the Hugging Face head: returns the pooled states it is given."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.pooler = getattr(base, "pooler", None)
        # ALBERT keeps the two halves of its pooler apart.
        self.activation = getattr(base, "pooler_activation", None)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        pooled = None
        if self.pooler is not None:
            states = inputs_embeds if self.activation is None else inputs_embeds[:, 0]
            pooled = self.pooler(states)
            pooled = pooled if self.activation is None else self.activation(pooled)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def scores_of(values: Tensor, scalarisation: Scalarisation) -> list[Score]:
    """The labels' values of each sequence, [n, labels], as scores."""
    weights = torch.tensor(scalarisation.weights, dtype=torch.float64)
    rewards: list[float] = (values.double() @ weights).tolist()
    names = scalarisation.names
    if len(names) == 1:
        return [Score(reward) for reward in rewards]
    rows: list[list[float]] = values.tolist()
    return [Score(one, dict(zip(names, row, strict=True))) for one, row in zip(rewards, rows, strict=True)]
