"""Tiny random models and tokenizers of the real architectures, made on the spot: no hub, no downloads."""

from pathlib import Path

import torch
from architectures import DEBERTA_V3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from reward_model import checkpoint
from reward_model.calibration import Calibration, reward_statistics
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.records import Conversation, Message
from reward_model.rendering import Rendered
from reward_model.template import DECODER_TEMPLATE, ENCODER_TEMPLATE

ENCODERS = ("bert", "distilbert", "roberta", "modernbert", "deberta-v2")
DECODERS = ("gpt2", "llama", "qwen3")
ARCHITECTURES = ENCODERS + DECODERS

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_NAMES = {
    "deberta-v2": {**_SHAPE, **DEBERTA_V3},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 256},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": {**_SHAPE, "num_key_value_heads": 2},
    "qwen3": {**_SHAPE, "num_key_value_heads": 2, "head_dim": 8},
    "modernbert": {
        **_SHAPE,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "classifier_pooling": "mean",
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "roberta": {**_SHAPE, "max_position_embeddings": 257, "type_vocab_size": 1},
}


def tiny_tokenizer(kind: str, *, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens of `kind`: "encoder", "decoder" or "chatml"."""
    specials = {
        "encoder": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
        "decoder": {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
        "chatml": {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    }[kind]
    extra = ["<|im_start|>"] if kind == "chatml" else []
    names = [*specials.values(), *extra]
    vocabulary = {token: i for i, token in enumerate([*names, *_BYTES])}
    # A few merges, so that a token is not always one byte.
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "the")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if kind == "encoder":
        cls_id, sep_id = vocabulary["[CLS]"], vocabulary["[SEP]"]
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=extra,
        clean_up_tokenization_spaces=False,
        **specials,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(
    architecture: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    num_labels: int = 1,
    **overrides: object,
) -> PreTrainedModel:
    """A random sequence classifier whose scores spread enough for differences to be seen."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "num_labels": num_labels,
            "initializer_range": 0.1 if architecture in DECODERS else 0.2,
            **_NAMES.get(architecture, _SHAPE),
            **overrides,
        },
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


def kind_of(architecture: str) -> str:
    """Which tokenizer goes with an architecture."""
    return "decoder" if architecture in DECODERS else "encoder"


def tiny_base(directory: Path, architecture: str, **overrides: object) -> Path:
    """A base model without our manifest, as it would come from a hub."""
    tokenizer = tiny_tokenizer(kind_of(architecture))
    tiny_model(architecture, tokenizer, **overrides).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def tiny_checkpoint(directory: Path, architecture: str, *, max_length: int = 200, **overrides: object) -> Path:
    """A checkpoint of ours, as `training.train` would write it, but of random weights."""
    kind = kind_of(architecture)
    template = DECODER_TEMPLATE if kind == "decoder" else ENCODER_TEMPLATE
    tokenizer = tiny_tokenizer(kind, chat_template=template)
    network = tiny_model(architecture, tokenizer, **overrides)
    model = RewardModel(network, choose_precision("cpu", "float32"))
    calibration = Calibration(temperature=1.5, calibrated=True, reason=None, pairs=200)
    sample = [Rendered(None, [5 + (i * j * j + 3 * i) % 250 for j in range(5 + 4 * i)]) for i in range(40)]
    reward = reward_statistics([score.value for score in model.eval().score(sample)])
    checkpoint.save(model, tokenizer, directory, max_length=max_length, calibration=calibration, reward=reward)
    return directory


def transformers_score(directory: Path, conversation: Conversation) -> float:
    """What anybody gets from the checkpoint directory with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="eager").eval()
    turns = [*conversation.prompt, Message("assistant", conversation.response)]
    text = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in turns], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids).logits[0, 0])
