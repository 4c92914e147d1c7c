"""The model that all servers are given, in the forms that they want: the demo's backbone under a random head.

Its weights are trained ones, so that rounding is as it is in real life; scores are spread like a trained model's, so
that a server that computes something else shows. Knows checkpoints, no servers.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.texts import Sample
from reward_model import checkpoint
from reward_model.calibration import reward_statistics
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.pretrained import load_tokenizer
from reward_model.rendering import Rendered
from reward_model.template import ENCODER_TEMPLATE
from training.demo.backbone import copy_backbone


@dataclass(frozen=True, slots=True)
class Weights:
    """Directories with the same model.

    Attributes:
        checkpoint: ours, with a manifest and a chat template.
        plain: for transformers: one label, no template.
        two_labels: the same with a second label that is always 0, for servers that return probabilities only: the
            softmax of the first is the sigmoid of the score.
    """

    checkpoint: Path
    plain: Path
    two_labels: Path


def write(home: Path, texts: Sequence[Sample]) -> Weights:
    """Writes the model below `home`, unless it is there.

    Args:
        home: where to.
        texts: on which scores get mean 0 and standard deviation 1.

    Raises:
        CheckpointRefused: the package with the backbone is not installed (see requirements-demo.txt).
    """
    weights = Weights(*(home / kind for kind in ("checkpoint", "plain", "two_labels")))
    if not (weights.two_labels / "config.json").exists():
        _write(weights, texts)
    return weights


def _write(weights: Weights, texts: Sequence[Sample]) -> None:
    for path in (weights.checkpoint, weights.plain, weights.two_labels):
        shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory() as backbone:
        source = copy_backbone(Path(backbone))
        tokenizer, network = load_tokenizer(source), _network(source, num_labels=1)
    segments = network.get_parameter("bert.embeddings.token_type_embeddings.weight")
    # Some servers mark the response as a second segment, others do not: the score must be the same.
    segments.data[1] = segments.data[0]
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    encoded = [tokenizer(text.prompt, text.response)["input_ids"] for text in texts]
    probes = [Rendered(None, ids) for ids in encoded]
    _spread_scores(model, probes)
    rewards = reward_statistics([one.value for one in model.score(probes)])
    tokenizer.chat_template = None
    _save(network, tokenizer, weights.plain)
    _save(_with_a_zero_label(network, weights.plain), tokenizer, weights.two_labels)
    tokenizer.chat_template = ENCODER_TEMPLATE
    checkpoint.save(model, tokenizer, weights.checkpoint, max_length=512, reward=rewards)


def _network(source: Path, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    network: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(source, **changes)
    nn.Module.eval(network)
    return network


def _save(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    network.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _spread_scores(model: RewardModel, probes: Sequence[Rendered]) -> None:
    scores = torch.tensor([one.value for one in model.score(probes)], dtype=torch.float64)
    std, mean = torch.std_mean(scores)
    head = model.model.classifier
    assert isinstance(head, nn.Linear)
    head.weight.data /= std
    head.bias.data.copy_((head.bias.data - mean) / std)


def _with_a_zero_label(network: PreTrainedModel, plain: Path) -> PreTrainedModel:
    labels = {0: "reward", 1: "zero"}
    twin = _network(plain, id2label=labels, label2id={v: k for k, v in labels.items()}, ignore_mismatched_sizes=True)
    state = network.state_dict()
    for part in ("classifier.weight", "classifier.bias"):
        state[part] = torch.cat([state[part], torch.zeros_like(state[part])])
    twin.load_state_dict(state)
    return twin
