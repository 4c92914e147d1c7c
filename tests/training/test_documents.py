"""Results are on disk whole or not at all."""

import json
from pathlib import Path

import pytest

from training.documents import write_document


def test_document_is_read_back_and_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "metrics.json"
    write_document({"who": "Grüße", "n": [1, 0.1]}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"who": "Grüße", "n": [1, 0.1]}
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.json"]


def test_number_that_json_cannot_express_leaves_the_old_document(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_document({"n": 1}, path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_document({"n": float("nan")}, path)
    assert json.loads(path.read_text()) == {"n": 1}


def test_failed_replacement_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(OSError, match=r"metrics\.json"):
        write_document({"n": 1}, tmp_path / "metrics.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
