"""Models of the sizes that people serve, with random weights: speed does not depend on what a model has learnt.

Knows configs and how many operations they take; nothing of how fast anything is.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

#: Ids of the WordPiece tokenizer that both encoders were made for.
_WORDPIECE = 30_522

CONFIGS: dict[str, PreTrainedConfig] = {
    # nreimers/MiniLM-L6-H384-uncased
    "minilm": BertConfig(
        vocab_size=_WORDPIECE,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    ),
    # distilbert-base-uncased
    "distilbert": DistilBertConfig(vocab_size=_WORDPIECE, dim=768, n_layers=6, n_heads=12, hidden_dim=3072),
    # microsoft/deberta-v3-small, but for its words, of which it has four times as many.
    "deberta": AutoConfig.for_model(
        "deberta-v2",
        vocab_size=_WORDPIECE,
        hidden_size=768,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    ),
    # A quarter of Qwen/Qwen3-0.6B: its head size, grouped heads and proportions, half its width and layers.
    "qwen3": Qwen3Config(
        vocab_size=32_000,
        hidden_size=512,
        num_hidden_layers=14,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=128,
        intermediate_size=1536,
        max_position_embeddings=4096,
        pad_token_id=0,
    ),
}


def build(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A model of that size in evaluation mode, in fp32."""
    torch.manual_seed(seed)
    settings = CONFIGS[name].to_dict() | {"num_labels": 1, "id2label": None, "label2id": None}
    config = AutoConfig.for_model(**settings)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    nn.Module.eval(model)
    return model


def linears(model: PreTrainedModel) -> list[tuple[int, int]]:
    """(in, out) of every linear layer that each token goes through."""
    base = getattr(model, model.base_model_prefix)
    layers = next(one for one in base.modules() if isinstance(one, nn.ModuleList))
    return [(one.in_features, one.out_features) for one in layers.modules() if isinstance(one, nn.Linear)]


def flops(model: PreTrainedModel, lengths: Sequence[int], *, causal: bool = False) -> float:
    """Floating-point operations of linear layers and attention for sequences of such lengths, each by itself.

    A multiplication and an addition count two. Norms, activations, softmax, embeddings and the head do not count.

    Args:
        model: whose layers.
        lengths: tokens of each sequence.
        causal: take off the half of attention that causality leaves out.
    """
    config = model.config.get_text_config()
    per_token = 2 * sum(width * height for width, height in linears(model))
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_pair = 4 * config.num_hidden_layers * config.num_attention_heads * head_size / (2 if causal else 1)
    return float(per_token * sum(lengths) + per_pair * sum(length * length for length in lengths))


def flops_read_only(
    model: PreTrainedModel, lengths: Sequence[int], *, causal: bool = False, projections: int = 3
) -> float:
    """What of `flops` is left where the last layer computes one token of each sequence.

    Args:
        model: whose layers.
        lengths: tokens of each sequence.
        causal: as for `flops`.
        projections: what the last layer still makes of all tokens: queries, keys and values (3), keys and values (2, in
            a trace), or none of them (0, see `reward_model.absorbed`).
    """
    config = model.config.get_text_config()
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    whole = flops(model, lengths, causal=causal)
    last_linear = 2 * sum(width * height for width, height in linears(model)) / layers
    per_head = 2 * config.hidden_size * head_size
    states = per_head * {3: heads + 2 * key_heads, 2: 2 * key_heads, 0: 0}[projections]
    spared = sum(length - 1 for length in lengths) * (last_linear - states)
    of_pair = 4 * heads * head_size / (2 if causal else 1)
    pairs = of_pair * sum(length * (length - 1) for length in lengths)
    # Where the states themselves are looked at, each head does so over their whole width.
    wider = 0 if projections else 4 * heads * (config.hidden_size - head_size) * sum(lengths)
    return float(whole - spared - pairs + wider)
