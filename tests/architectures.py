"""A tiny random model of any architecture that transformers can classify sequences with: width 32, two layers or four.

Every parameter is random, biases and norms included, and large enough that a token seen or missed shows in the score.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

#: What transformers 5.23 has a sequence-classification class for, by the way it is run; all 127 are in one of these.
#: docs/architectures.md names the same.
PACKED_DECODERS = (
    "gpt2", "gpt-sw3", "gpt_bigcode", "gpt_neox", "opt", "phi", "phi3", "persimmon", "starcoder2",
    "llama", "arcee", "mistral", "ministral", "ministral3", "mixtral", "mistral4", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "olmo3", "glm", "glm4", "smollm3", "seed_oss",
    "exaone4", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jetmoe", "diffllama", "deepseek_v2", "deepseek_v3",
    "minicpm3", "axk1", "cohere_compass_text",
)  # fmt: skip
#: Its images are read both ways, so the model does not count as causal as a whole.
PACKED_UNSHARED = ("gemma3",)
PACKED_ENCODERS = (
    "bert", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text",
    "deberta-v2", "distilbert", "modernbert", "electra", "albert", "ernie", "gte", "jina_embeddings_v3", "nomic_bert",
)  # fmt: skip
PADDED_ENCODERS = ("deberta", "megatron-bert", "mpnet", "rembert")
PADDED_DECODERS = (
    "biogpt", "bloom", "doge", "falcon", "gpt_neo", "gptj", "gpt_oss", "jamba", "minimax", "mpt", "nemotron",
    "openai-gpt", "phimoe", "qwen3_5", "qwen3_5_text", "qwen3_next", "stablelm", "zamba", "zamba2",
)  # fmt: skip
#: Padding changes what they compute.
IN_EQUAL_LENGTHS = ("axk2", "mobilebert")
#: Their code mixes dtypes in a way that only fp32 allows.
FLOAT32_ONLY = ("minimax", "openai-gpt")
ENCODER_DECODERS = (
    "bart", "bigbird_pegasus", "mbart", "mt5", "mvp", "plbart", "t5", "t5gemma", "t5gemma2", "umt5",
)  # fmt: skip
#: How they pool is not known: they pool in a way of their own, want more than text, or nobody has asked for them.
UNKNOWN_POOLING = (
    "big_bird", "canine", "convbert", "ctrl", "esm", "esmc", "eurobert", "flaubert", "fnet", "funnel", "ibert",
    "layoutlm", "layoutlmv2", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "modernbert-decoder",
    "modernvbert", "mra", "nystromformer", "perceiver", "reformer", "roc_bert", "roformer", "squeezebert", "tapas",
    "ultrabert", "ultravbert", "xlm", "xlnet", "xmod", "yoso",
)  # fmt: skip

PACKED = PACKED_DECODERS + PACKED_UNSHARED + PACKED_ENCODERS
SUPPORTED = PACKED + PADDED_ENCODERS + PADDED_DECODERS + IN_EQUAL_LENGTHS
REFUSED = ENCODER_DECODERS + UNKNOWN_POOLING

VOCABULARY = 120
PAD, BOS, EOS = 0, 1, 2
#: Shorter than the sequences of the tests, so that windows matter.
WINDOW = 8

#: Whatever of these a config has is set; the names are those that families use.
_TINY: dict[str, Any] = {
    "num_labels": 1,
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "cls_token_id": BOS,
    "sep_token_id": EOS,
    "max_position_embeddings": 256,
    "n_positions": 256,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("attn_hidden", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "ffn_dim", "d_ff", "d_inner", "dff"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "d_head", "d_kv", "query_pre_attn_scalar", "rotary_dim"), 8),
    **dict.fromkeys(("sliding_window", "window_size"), WINDOW),
    # Mixtures of experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    # Latent attention: queries and keys are wider than values.
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    # Recurrent layers.
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state"), 8),
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "layer_types": None,
}
_LATENT = {"num_key_value_heads": 4, "head_dim": None}
_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
#: As its third version, but for buckets of distances so few that those of the tests are in several.
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}
#: Positions start behind the padding id.
_FAIRSEQ = {"pad_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 258}
_OWN: dict[str, dict[str, Any]] = {
    "camembert": _FAIRSEQ,
    "data2vec-text": _FAIRSEQ,
    "mpnet": _FAIRSEQ,
    "roberta": _FAIRSEQ,
    "roberta-prelayernorm": _FAIRSEQ,
    "xlm-roberta": _FAIRSEQ,
    "xlm-roberta-xl": _FAIRSEQ,
    "axk1": _LATENT,
    "axk2": {
        **_LATENT,
        "index_topk": WINDOW,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "n_group": None,
        "topk_group": None,
        "head_dim": 8,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "deberta-v2": DEBERTA_V3,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "exaone4": {"sliding_window_pattern": 2},
    "minicpm3": _LATENT,
    "mistral4": {"num_key_value_heads": 4, "head_dim": 16},
    "falcon": {"alibi": False},
    "gemma3": {"text_config": {}, "vision_config": {**_VISION, "image_size": 28, "patch_size": 14}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "mobilebert": {"embedding_size": 128, "hidden_size": 128, "true_hidden_size": 128, "intra_bottleneck_size": 128},
    "modernbert": {"local_attention": 2 * WINDOW, "global_attn_every_n_layers": 2},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3_5": {
        "text_config": {"num_hidden_layers": 4},
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
    },
    "qwen3_next": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "zamba": {"num_hidden_layers": 5, "n_mamba_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba2": {
        "num_hidden_layers": 3,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_ngroups": 1,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "num_mem_blocks": 1,
    },
}


def tiny_config(kind: str, **overrides: Any) -> PreTrainedConfig:
    """The config of a tiny model.

    Args:
        kind: transformers' model type.
        overrides: entries of the config (of its text part, where it has several parts).
    """
    config_class = CONFIG_MAPPING[kind]
    own = dict(_OWN.get(kind, {}))
    if "text_config" in own:
        text = config_class.sub_configs["text_config"]
        return config_class(
            **own | {"text_config": _known(text(), own["text_config"] | overrides)},
            num_labels=overrides.get("num_labels", 1),
        )
    return config_class(**_known(config_class(), own | overrides))


def _known(default: PreTrainedConfig, values: dict[str, Any]) -> dict[str, Any]:
    def settable(name: str) -> bool:
        attribute = getattr(type(default), name, None)
        return hasattr(default, name) and not (isinstance(attribute, property) and attribute.fset is None)

    tiny = {name: value for name, value in _TINY.items() if settable(name)}
    if getattr(default, "layer_types", None) is None or "layers_block_type" in (*values, *vars(default)):
        tiny.pop("layer_types", None)
    return {name: value for name, value in (tiny | values).items() if name in values or settable(name)}


def tiny_network(kind: str, *, seed: int = 0, scale: float = 0.3, **overrides: Any) -> PreTrainedModel:
    """A random sequence classifier.

    Args:
        kind: transformers' model type.
        seed: of the weights.
        scale: standard deviation of the matrices' entries.
        overrides: see `tiny_config`.
    """
    torch.manual_seed(seed)  # some parameters of one dimension are random before the noise
    network = AutoModelForSequenceClassification.from_config(tiny_config(kind, **overrides)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(scale * noise)
            else:
                parameter.add_(0.1 * noise)
    return network
