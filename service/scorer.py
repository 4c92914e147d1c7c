"""What the service needs of a model: how to render for it, how to run it, and what it is.

`ModelScorer` is a checkpoint seen that way; `service.stub` has one without a model. Knows neither queues nor
HTTP, and imports no model library: whoever has no checkpoint needs none.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol, TypeVar

from reward_model import __version__
from reward_model.calibration import Calibration, RewardStatistics
from reward_model.length_calibration import LengthCalibration
from reward_model.meter import Meter
from reward_model.records import Prompt, Record
from reward_model.rendering import Rendered
from reward_model.scores import Score

if TYPE_CHECKING:
    from reward_model.checkpoint import Checkpoint

T = TypeVar("T")

#: Pieces of the messages by which torch says that memory ran out (several classes of error, one meaning).
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
#: ... and that the device answers no call any more, or with garbage (CUDA keeps such errors for good).
_DEVICE_LOST = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ecc",
    "hardware stack error",
    "device is lost",
    "fallen off the bus",
)


class DeviceLost(Exception):
    """The device fails every call from now on: only a new process helps."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is served: the answer of /model and the labels of its metrics. No paths, nothing secret.

    Attributes:
        fingerprint: identity of the score function.
        attention, attention_reason: how the backbone runs batches, and why so.
        calibration, reward: None where the checkpoint has none.
        template_sha256: None where no chat template is used.
        attributes: names of the head's labels where there are several, else empty.
        golden_max_error: largest absolute error of the golden replay at load.
        versions: of everything that a score depends on.
        length_calibration: what is taken off raw rewards; None where nothing is.
    """

    name: str
    fingerprint: str
    kind: str
    architecture: str
    attention: str
    attention_reason: str
    device: str
    dtype: str
    dtype_reason: str
    max_length: int
    rendering: str
    pooling: str
    template_sha256: str | None
    calibration: Calibration | None
    reward: RewardStatistics | None
    attributes: tuple[str, ...]
    golden_max_error: float | None
    versions: dict[str, str]
    length_calibration: LengthCalibration | None = None


class Pending(Protocol):
    """A batch that has been launched."""

    def wait_for_room(self) -> None:
        """Waits until another batch would be begun with at once, or kept by a device that never waits for the host."""
        ...

    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        ...

    def result(self) -> list[Score]:
        """The scores in the batch's order; waits for them.

        Raises:
            Exception: as `Scorer.launch`; a device that works by itself tells of an error only later.
        """
        ...


class Scorer(Protocol):
    """A model, as the service sees it."""

    @property
    def info(self) -> ModelInfo:
        """What it is."""
        ...

    def render(self, record: Record, *, truncate: bool) -> Rendered:
        """Tokenises one record; called from several threads at once.

        Raises:
            InputError: it cannot be scored.
        """
        ...

    def render_group(self, prompt: Prompt, responses: Sequence[str], *, truncate: bool) -> list[Rendered]:
        """Tokenises responses to one prompt, which is cut once for all; called from several threads at once.

        Raises:
            InputError: one of them cannot be scored.
        """
        ...

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch that keep the device busy; more only make each batch take longer."""
        ...

    def meter(self) -> Meter:
        """For a batch that is to be filled: what each input adds to it."""
        ...

    def launch(self, batch: Sequence[Rendered]) -> Pending:
        """Begins to score `batch` (one or more); called from one thread only.

        Where the device works by itself this returns before it is done, and it begins with batches one after the other.
        Elsewhere the result is there when this returns.

        Raises:
            MemoryError: the batch is too big, a part of it may not be.
            DeviceLost: nothing can be computed any more.
            Exception: something in the batch cannot be computed.
        """
        ...

    def run(self, batch: Sequence[Rendered]) -> list[Score]:
        """Scores `batch`: `launch`, and then its result."""
        ...

    def padding(self, batch: Sequence[Rendered]) -> int:
        """How many tokens beside the real ones `run` computes for `batch`."""
        ...


class ModelScorer:
    """A loaded checkpoint as a `Scorer`.

    Args:
        checkpoint: loaded and verified.
    """

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self._checkpoint = checkpoint
        self._info = _describe(checkpoint)

    @property
    def info(self) -> ModelInfo:
        """See `Scorer`."""
        return self._info

    def render(self, record: Record, *, truncate: bool) -> Rendered:
        """See `Scorer`."""
        rendered = self._checkpoint.renderer.render(record, truncate=truncate)
        if self._info.length_calibration is not None:
            self._info.length_calibration.bias(rendered.response_length)  # refused here where there is none
        return rendered

    def render_group(self, prompt: Prompt, responses: Sequence[str], *, truncate: bool) -> list[Rendered]:
        """See `Scorer`."""
        return self._checkpoint.renderer.render_group(prompt, responses, truncate=truncate)

    @property
    def batch_tokens(self) -> int:
        """See `Scorer`."""
        return self._checkpoint.model.batch_tokens

    def meter(self) -> Meter:
        """See `Scorer`."""
        return self._checkpoint.model.meter()

    def launch(self, batch: Sequence[Rendered]) -> Pending:
        """See `Scorer`."""
        return _Launched(_told(lambda: self._checkpoint.model.launch(batch)))

    def run(self, batch: Sequence[Rendered]) -> list[Score]:
        """See `Scorer`."""
        return self.launch(batch).result()

    def padding(self, batch: Sequence[Rendered]) -> int:
        """See `Scorer`."""
        return self._checkpoint.model.padding(batch)


class _Launched:
    """A batch on the device, whose errors are told by their meaning."""

    def __init__(self, scores: Pending) -> None:
        self._scores = scores

    def wait_for_room(self) -> None:
        self._scores.wait_for_room()

    def done(self) -> bool:
        try:
            return self._scores.done()
        except RuntimeError:
            return True  # `result` says which

    def result(self) -> list[Score]:
        return _told(self._scores.result)


def _told(call: Callable[[], T]) -> T:
    """What `call` returns; what torch raises in it becomes MemoryError or DeviceLost where it means that."""
    try:
        return call()
    except RuntimeError as error:
        failure = _meaning(error)
        if failure is None:
            raise
    # Raised out here, without the original: its traceback would keep the batch's tensors alive.
    raise failure


def _meaning(error: RuntimeError) -> MemoryError | DeviceLost | None:
    """What torch means: its errors are told apart by their messages only."""
    message = str(error).lower()
    first_line = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError) or any(piece in message for piece in _OUT_OF_MEMORY):
        return MemoryError(first_line)
    if any(piece in message for piece in _DEVICE_LOST):
        return DeviceLost(first_line)
    return None


def _describe(checkpoint: "Checkpoint") -> ModelInfo:
    model, renderer, manifest = checkpoint.model, checkpoint.renderer, checkpoint.manifest
    names = model.scalarisation.names
    return ModelInfo(
        name=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        kind=manifest.kind if manifest is not None else "sequence-classification",
        architecture=type(model.model).__name__,
        attention=model.backbone.path,
        attention_reason=model.backbone.reason,
        device=str(model.precision.device),
        dtype=model.precision.dtype_name,
        dtype_reason=model.precision.reason,
        max_length=renderer.max_length,
        rendering=renderer.rendering,
        pooling=model.pooling,
        template_sha256=renderer.template.sha256 if renderer.template is not None else None,
        calibration=manifest.calibration if manifest is not None else None,
        reward=checkpoint.reward,
        attributes=names if len(names) > 1 else (),
        golden_max_error=checkpoint.golden_max_error,
        versions=_versions(),
        length_calibration=model.length_calibration,
    )


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"reward_model": __version__, "python": platform.python_version(), **libraries}
