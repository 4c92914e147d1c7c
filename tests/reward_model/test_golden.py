"""Golden conversations fit every kind of checkpoint."""

import pytest
import tiny

from reward_model.errors import CheckpointRefused
from reward_model.golden import golden_renderings
from reward_model.records import Conversation, Text
from reward_model.rendering import Renderer
from reward_model.template import DECODER_TEMPLATE

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + DECODER_TEMPLATE
)


def renderer(source: str | None, rendering: str = "chat_template", max_length: int = 300) -> Renderer:
    tokenizer = tiny.tiny_tokenizer("decoder", chat_template=source)
    return Renderer(tokenizer, rendering=rendering, max_length=max_length, vocab_size=len(tokenizer))


def test_they_cover_what_can_go_wrong() -> None:
    found = list(golden_renderings(renderer(DECODER_TEMPLATE)))
    conversations = [record for record, _ in found if isinstance(record, Conversation)]
    assert len(conversations) == 12
    assert any(message.role == "system" for c in conversations for message in c.prompt)
    assert any(len(c.prompt) > 2 for c in conversations), "multi-turn"
    assert any(not c.finished for c in conversations)
    assert any(not c.response for c in conversations)
    assert any(not c.response.isascii() for c in conversations)
    assert sum(rendered.truncated for _, rendered in found) == 2
    assert max(len(rendered.token_ids) for _, rendered in found) == 300


def test_a_template_without_a_system_role_gets_them_without_it() -> None:
    found = list(golden_renderings(renderer(NO_SYSTEM)))
    assert len(found) == 12
    assert not any("System:" in str(rendered.text) for _, rendered in found)


def test_a_model_that_reads_only_text_gets_text() -> None:
    found = list(golden_renderings(renderer(None, "text")))
    assert all(isinstance(record, Text) for record, _ in found)


def test_a_limit_too_small_for_any_of_them_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match="raise max_length"):
        list(golden_renderings(renderer(DECODER_TEMPLATE, max_length=20)))
