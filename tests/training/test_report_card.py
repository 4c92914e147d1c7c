"""The model card says what the hub asks for, and nothing that is not known."""

from dataclasses import replace
from typing import Any

import pytest
import subjects
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from training.report.card import card
from training.report.subject import Subject
from training.report.verdicts import DataSet

#: huggingface.co/docs/hub/model-cards, "Model card metadata".
FIELDS = {"library_name", "pipeline_tag", "base_model", "datasets", "tags", "metrics", "model-index"}


def metadata(subject: Subject) -> dict[str, Any]:
    _, front, _ = card(subject).split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def from_the_hub() -> Subject:
    subject = subjects.subject()
    assert subject.verdicts is not None
    data = DataSet.named("org/prefs:test", "sha256:0")
    log = replace(subjects.log(), dataset="org/prefs:train")
    return replace(subject, log=log, verdicts=replace(subject.verdicts, dataset=data))


def test_its_metadata_are_those_of_the_hub() -> None:
    found = metadata(from_the_hub())
    assert found.keys() == FIELDS
    assert (found["library_name"], found["pipeline_tag"]) == ("transformers", "text-classification")
    assert (found["base_model"], found["datasets"]) == ("org/base", ["org/prefs"])
    assert found["tags"] == ["reward-model"]
    assert found["metrics"] == ["accuracy"]


def test_the_hubs_own_library_reads_the_result_back() -> None:
    subject = from_the_hub()
    assert subject.verdicts is not None
    read = ModelCard(card(subject))
    name, (result,) = model_index_to_eval_results(metadata(subject)["model-index"])
    assert read.data.eval_results == [result]
    assert name == "a-model"
    assert (result.task_type, result.dataset_type, result.dataset_split) == ("text-classification", "org/prefs", "test")
    assert result.metric_type == "accuracy"
    assert result.metric_value == pytest.approx(subject.verdicts.accuracy.accuracy, abs=1e-4)


def test_what_lies_on_disk_is_no_name_on_the_hub() -> None:
    subject = replace(subjects.subject(), log=replace(subjects.log(), base_model=None))
    found = metadata(subject)
    assert not found.keys() & {"base_model", "datasets"}
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == "unknown"
    text = card(subject)
    assert "/home/somebody" not in text
    assert "training data: pairs.jsonl: 1,200 pairs" in text
    assert "The base model lay in a directory" in text


def test_a_license_is_not_made_up() -> None:
    assert "license" not in metadata(from_the_hub())
    assert "## License\n\nNot known" in card(from_the_hub())


def test_without_pairs_there_are_no_results() -> None:
    found = metadata(replace(subjects.subject(), verdicts=None))
    assert not found.keys() & {"model-index", "metrics"}


def test_what_is_not_known_of_a_foreign_model_is_not_said() -> None:
    foreign = replace(subjects.subject(own=False), manifest=None, log=None)
    text = card(foreign)
    assert "library_name" not in metadata(foreign)
    assert "The checkpoint does not say how it was made." in text
    assert "Not calibrated: not fitted." in text


@pytest.mark.parametrize("place", ["/srv/secret/", "~/secret/", "./secret/", "secret/deeper/"])
def test_where_files_lay_is_left_out(place: str) -> None:
    subject = subjects.subject()
    assert subject.manifest is not None
    record = subject.manifest.training | {"dataset": f"{place}pairs.jsonl"}
    text = card(replace(subject, manifest=replace(subject.manifest, training=record)))
    assert "secret" not in text
    assert "training data: pairs.jsonl: 1,200 pairs" in text


def test_names_from_data_are_no_markdown() -> None:
    hostile = "a|b\n# <b>`x`</b> [l](u) &amp; --- "
    text = card(subjects.subject(subjects.verdicts(category=hostile)))
    assert "category a\\|b \\# \\<b\\>\\`x\\`\\</b\\> \\[l\\](u) &amp;amp; --- 0 |" in text


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("org/set", "org/set"), ("set:test", "set:test"), ("./set", None), ("/x/set", None), ("~/set", None),
        ("set.jsonl", None), ("dir/set.jsonl.gz", None), ("set.parquet", None), ("tests", None),
    ],
)  # fmt: skip
def test_a_path_is_told_from_a_name_of_the_hub(name: str, hub: str | None) -> None:
    assert DataSet.named(name, None).hub == hub
    assert "/" not in DataSet.named(name, None).name or hub
