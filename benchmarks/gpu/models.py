"""Models of real shapes with random weights, on the device: ours and transformers' own.

Knows configs and how to build from them, not what is measured.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from reward_model.model import RewardModel
from reward_model.precision import Precision

_QWEN3: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "num_hidden_layers": 28, "head_dim": 128,
    "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072, "max_position_embeddings": 32_768,
}  # fmt: skip
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "num_key_value_heads": 8,
    "num_attention_heads": 32,
}

#: As their publishers' configs say; ids of padding are made up, since nothing here is padded with text.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": _QWEN3,
    "llama-3.2-1b": _LLAMA | {
        "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "head_dim": 64,
        "max_position_embeddings": 131_072,
    },
    "llama-3.1-8b": _LLAMA | {
        "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14_336, "head_dim": 128,
        "max_position_embeddings": 131_072,
    },
    "modernbert-base": {
        "model_type": "modernbert", "vocab_size": 50_368, "hidden_size": 768, "num_hidden_layers": 22,
        "num_attention_heads": 12, "intermediate_size": 1152, "max_position_embeddings": 8192,
    },
    "deberta-v3-large": {
        "model_type": "deberta-v2", "vocab_size": 128_100, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 512, "type_vocab_size": 0,
        "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1, "position_biased_input": False,
    },
    # For trying a part out where there is no GPU.
    "tiny": _QWEN3 | {
        "vocab_size": 1000, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64,
    },
}  # fmt: skip


def network(shape: str, device: torch.device, *, attention: str = "sdpa", seed: int = 0) -> PreTrainedModel:
    """The model as transformers has it, in evaluation mode, in fp32."""
    torch.manual_seed(seed)
    settings = SHAPES[shape] | {"num_labels": 1, "pad_token_id": 0}
    with device:
        config = AutoConfig.for_model(**settings)
        built: PreTrainedModel = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=attention if settings["model_type"] != "deberta-v2" else "eager"
        )
    nn.Module.eval(built)
    built.config.use_cache = False  # of keys and values, which only who generates needs
    return built


def engine(shape: str, device: torch.device, dtype: torch.dtype, *, deterministic: bool = False) -> RewardModel:
    """This project's, ready to score.

    Raises:
        RuntimeError: it is not computed the way that is to be measured.
    """
    precision = Precision(device, dtype, "of the benchmark")
    model = RewardModel(network(shape, device), precision, deterministic=deterministic).freeze()
    if (model.backbone.path == "packed") is (SHAPES[shape]["model_type"] == "deberta-v2"):
        msg = f"{shape} is {model.backbone.path}: {model.backbone.reason}"
        raise RuntimeError(msg)
    return model


def plain(shape: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The one of transformers in `dtype`, ready to score."""
    built = network(shape, device)
    nn.Module.to(built, dtype)
    return built.requires_grad_(requires_grad=False)
