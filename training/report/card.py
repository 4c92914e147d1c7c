"""The model card: `README.md` with the metadata of the Hugging Face hub on top.

Fields are those of huggingface.co/docs/hub/model-cards. What is not known, the license above all, is said to be so and
never made up. Knows the card's form, not how figures are computed.
"""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from training.report.figure import interval, percent
from training.report.origin import facts
from training.report.page import measured_on
from training.report.subject import Subject
from training.report.verdicts import hub_name
from training.statistics import Accuracy

_USE = """\
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained(path).eval()
turns = [{"role": "user", "content": "Explain gravity."}, {"role": "assistant", "content": "Masses attract."}]
text = tokenizer.apply_chat_template(turns, tokenize=False)
reward = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0].item()
```"""


def card(subject: Subject) -> str:
    """The whole file."""
    return f"---\n{metadata(subject).to_yaml()}\n---\n\n" + "\n".join(_body(subject)) + "\n"


def metadata(subject: Subject) -> ModelCardData:
    """What the hub reads. Only names of the hub are names there: files and directories are left out."""
    log = subject.log
    return ModelCardData(
        library_name="transformers" if subject.manifest else None,
        pipeline_tag="text-classification",
        base_model=log.base_model if log else None,
        datasets=[log.dataset.partition(":")[0]] if log and log.dataset else None,
        tags=["reward-model"],
        metrics=["accuracy"] if subject.verdicts else None,
        model_name=subject.name,
        eval_results=_results(subject),
    )


def _results(subject: Subject) -> list[EvalResult] | None:
    if subject.verdicts is None:
        return None
    data = subject.verdicts.dataset
    name, _, split = (data.hub or "").partition(":")
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Preference prediction",
            dataset_type=name or "unknown",
            dataset_name=data.name,
            dataset_split=split or None,
            dataset_args={"fingerprint": data.fingerprint} if data.fingerprint else None,
            metric_type="accuracy",
            metric_name="Accuracy",
            metric_value=round(subject.verdicts.accuracy.accuracy, 4),
        )
    ]


def _body(subject: Subject) -> Iterator[str]:
    yield f"# {_plain(subject.name)}\n"
    yield "A reward model: it reads a prompt and a response and gives one number, the higher the better people would"
    yield "find the response. Only differences between responses to one prompt mean something.\n"
    if subject.manifest and len(subject.manifest.attributes) == 1:
        yield f"## Use\n\n{_USE}\n"
    yield f"## Results\n\n{_plain(measured_on(subject))}\n"
    yield from _figures(subject)
    yield f"\n## Calibration\n\n{_calibration(subject)}\n"
    yield "## Training\n"
    known = facts(subject)
    yield from (f"- {name}: {_plain(_without_directories(text))}" for name, text in known)
    if not known:
        yield "The checkpoint does not say how it was made."
    if subject.log and not subject.log.base_model:
        yield "\nThe base model lay in a directory, so that its name on the hub, if it has one, is not known here."
    yield "\n## License\n"
    yield "Not known: it follows from those of the base model and of the training data. Add `license:` to the metadata"
    yield "above before this card is published."
    yield "\n## Limits\n"
    yield "The figures hold for pairs like those they were measured on. The model repeats the preferences of whoever"
    yield "labelled its training data, and can be misled by texts unlike them: long or flattering ones, for example, or"
    yield "those of a policy that was trained against it."


def _figures(subject: Subject) -> Iterator[str]:
    verdicts = subject.verdicts
    if verdicts is None:
        return
    yield "| | pairs | accuracy | 95 % interval |\n|---|---|---|---|"
    yield _row("all", verdicts.accuracy)
    for label in ("category", "source"):
        groups = verdicts.by(lambda one, label=label: getattr(one, label))  # type: ignore[misc]
        yield from (_row(f"{label} {name}", one) for name, one in groups.items())
    yield f"\nPreferring the longer response would be right in {percent(verdicts.longer_wins)} of these pairs."


def _row(name: str, one: Accuracy) -> str:
    return f"| {_plain(name)} | {one.n:,} | {percent(one.accuracy)} | {interval(one.accuracy_interval)} |"


def _calibration(subject: Subject) -> str:
    calibration, errors = subject.calibration, subject.calibration_errors
    if not calibration.calibrated:
        return f"Not calibrated: {calibration.reason}."
    text = f"P(a is preferred to b) = sigmoid((reward a - reward b) / {calibration.temperature:.4g})."
    if errors:
        text += f" Expected calibration error {errors[1]:.3f}, {errors[0]:.3f} with temperature 1."
    return text


def _without_directories(text: str) -> str:
    """A card is published; where files lay is nobody's business."""
    name, colon, rest = text.partition(": ")
    return Path(name).name + colon + rest if hub_name(name) is None else text


def _plain(text: str) -> str:
    r"""`text` on one line, without anything that Markdown or HTML would read as more than words."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else "&amp;" if c == "&" else c for c in flat)
