"""Real conversations to measure with: what matters for speed is how long they are and how lengths mix.

Knows preference data and the WordPiece tokenizer of the demo's backbone; nothing of what is measured.
"""

import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from reward_model.rendering import Rendered, Renderer
from reward_model.template import ENCODER_TEMPLATE
from training.demo.backbone import installed_backbone

HELD_OUT = Path(__file__).parent.parent / "training" / "demo" / "heldout.jsonl"


def token_ids(dataset: str, count: int, *, source: str = "", max_length: int = 512, seed: int = 0) -> list[list[int]]:
    """`count` different conversations as token ids, drawn from a data set.

    Args:
        dataset: preference data; see `training.data.read_preferences`.
        count: how many; all where there are fewer.
        source: only rows whose source starts like this.
        max_length: longer ones are cut in their prompt, as in training.
        seed: of the draw.
    """
    # Only who reads data needs the library for it: speed on a GPU is measured without.
    from training.data import RowReport, read_preferences  # noqa: PLC0415
    from training.examples import render_examples  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(installed_backbone())
    tokenizer.chat_template = ENCODER_TEMPLATE
    renderer = Renderer(tokenizer, rendering="chat_template", max_length=max_length, vocab_size=len(tokenizer))
    pairs = [pair for pair in read_preferences(dataset).pairs if (pair.source or "").startswith(source)]
    random.Random(seed).shuffle(pairs)
    examples = render_examples(pairs[:count], renderer, RowReport())
    rendered: list[Rendered] = [one for example in examples for one in example.sequences]
    different = list(dict.fromkeys(tuple(one.token_ids) for one in rendered))
    random.Random(seed).shuffle(different)
    return [list(ids) for ids in different[:count]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, all its turns as one text, and one response."""

    prompt: str
    response: str


def samples(dataset: str, count: int, *, source: str = "", max_length: int = 512, seed: int = 0) -> list[Sample]:
    """`count` different samples that no server has to cut; see `token_ids` for the arguments."""
    from training.data import read_preferences  # noqa: PLC0415 - as above

    tokenizer = AutoTokenizer.from_pretrained(installed_backbone())
    pairs = [pair for pair in read_preferences(dataset).pairs if (pair.source or "").startswith(source)]
    texts = [("\n\n".join(turn.content for turn in pair.prompt), pair) for pair in pairs]
    different = list(dict.fromkeys(Sample(prompt, r) for prompt, pair in texts for r in (pair.chosen, pair.rejected)))
    random.Random(seed).shuffle(different)
    fitting = (one for one in different if len(tokenizer(one.prompt, one.response)["input_ids"]) <= max_length)
    return list(islice(fitting, count))
