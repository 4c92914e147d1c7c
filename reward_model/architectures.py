"""Which way a model is run, chosen once, at load, with the reason: packed, padded by length, or not at all.

What an architecture is like is read off the model and then tried, not looked up by name; docs/architectures.md lists
what came of it. Knows backbones and their trial, nothing of heads.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from transformers import PreTrainedModel

from reward_model.attention import PACKED
from reward_model.backbone import Backbone, PackedBackbone
from reward_model.deberta import DisentangledBackbone, is_disentangled
from reward_model.errors import CheckpointRefused
from reward_model.padded import PaddedBackbone
from reward_model.trial import Trial, described

log = logging.getLogger(__name__)

#: Layers of other kinds may differ from these on inputs longer than those of a trial only.
_PACKABLE = frozenset({"full_attention", "sliding_attention"})
_LONGROPE = "longrope picks its frequencies by the longest sequence of a batch, so only equal lengths share one"


def choose_backbone(model: PreTrainedModel, trial: Trial) -> Backbone:
    """The first way to run the model, fastest first, that gives the states that transformers gives.

    Raises:
        CheckpointRefused: there is none.
    """
    if "dynamic" in _rope_types(model):
        msg = "dynamic RoPE makes a score depend on what was scored before it: set another rope_type in config.json"
        raise CheckpointRefused(msg)
    problems = _known_problems(model)
    for way, make in _ways(model, packed=not problems):
        try:
            backbone = make("; ".join(problems))
            problem = trial.of_states(backbone.hidden_states, share_prefixes=backbone.shares_prefixes)
        except Exception as error:  # noqa: BLE001 - whatever an architecture that nobody foresaw makes of it
            problem = described(error)
        else:
            if problem is None:
                return backbone
        problems.append(f"{way}, it does not give the states that transformers gives ({problem})")
        log.warning("%s models: %s", model.config.model_type, problems[-1])
    msg = (
        f"a batch of sequences cannot be scored with {model.config.model_type!r} models as transformers scores each"
        f" alone: {'; '.join(problems)}. Take another architecture"
    )
    raise CheckpointRefused(msg)


#: Makes a backbone, given what was wrong with faster ones.
_Make = Callable[[str], Backbone]


def _known_problems(model: PreTrainedModel) -> list[str]:
    """Why the model cannot be packed, as far as that can be read off it."""
    if is_disentangled(model):
        return []
    if not model._supports_attention_backend:  # noqa: SLF001 - it has no public name
        return ["this architecture computes its own attention, which cannot be packed"]
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _PACKABLE
    return [f"packed attention knows no layers of {', '.join(sorted(layers))}"] if layers else []


def _ways(model: PreTrainedModel, *, packed: bool) -> Iterator[tuple[str, _Make]]:
    if "longrope" in _rope_types(model):
        yield "in equal lengths", lambda _: _padded(model, _LONGROPE, similar=1.0)
        return
    if packed:
        yield "packed", partial(_packed, model)
    if model._supports_sdpa:  # noqa: SLF001 - it has no public name
        yield "padded with SDPA", lambda problems: _padded(model, problems, attention="sdpa")
    yield "padded", lambda problems: _padded(model, problems)
    yield "in equal lengths", lambda problems: _padded(model, problems, similar=1.0)


def _packed(model: PreTrainedModel, _: str) -> Backbone:
    if is_disentangled(model):
        return DisentangledBackbone(model)
    model.set_attn_implementation(PACKED)
    return PackedBackbone(model)


def _padded(
    model: PreTrainedModel, reason: str, *, similar: float = PaddedBackbone.similar, attention: str = "eager"
) -> Backbone:
    model.set_attn_implementation(attention)
    # What has to be computed in equal lengths keeps something between its runs, as longrope its frequencies.
    return PaddedBackbone(model, reason=reason, similar=similar, concurrent=similar < 1)


def _rope_types(model: PreTrainedModel) -> set[str]:
    """The kinds of rotary embedding in the config, which may have one for each type of layer."""
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    each = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return {str(one["rope_type"]) for one in each if "rope_type" in one}
