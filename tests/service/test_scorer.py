"""A checkpoint seen as a scorer: what it says of itself, and what torch's errors mean."""

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import tiny
import torch

from reward_model.checkpoint import Checkpoint, load
from reward_model.errors import TooLong
from reward_model.records import Conversation, Message, Text
from reward_model.rendering import Rendered
from service.scorer import DeviceLost, ModelScorer, Scorer

PROMPT = (Message("user", "Is 57 prime?"),)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of: Callable[[str], Path]) -> Checkpoint:
    return load(checkpoint_of("llama"), device="cpu", dtype="float32")


#: Where a model's error shows: a device that works by itself tells of it after the launch.
WHERE = pytest.mark.parametrize("at_launch", [True, False], ids=["at_launch", "at_the_result"])


def failing(checkpoint: Checkpoint, raise_error: Callable[[], None], *, at_launch: bool) -> ModelScorer:
    """A scorer of a model that describes itself as `checkpoint`'s does, and whose runs fail."""

    class Failed:
        done = result = staticmethod(raise_error)

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(checkpoint.model, name)

        def launch(self, _: Sequence[Rendered]) -> Failed:
            if at_launch:
                raise_error()
            return Failed()

    return ModelScorer(
        Checkpoint(
            name=checkpoint.name,
            model=cast("Any", Failing()),
            renderer=checkpoint.renderer,
            manifest=checkpoint.manifest,
            fingerprint=checkpoint.fingerprint,
            golden_max_error=checkpoint.golden_max_error,
        )
    )


def test_it_scores_as_the_model_does(checkpoint: Checkpoint) -> None:
    scorer: Scorer = ModelScorer(checkpoint)
    rendered = scorer.render_group(PROMPT, ["No, it is 3 * 19.", "Yes."], truncate=False)
    assert scorer.run(rendered) == checkpoint.model.score(rendered)
    assert rendered[1] == scorer.render(Conversation(PROMPT, "Yes."), truncate=False)
    launched = scorer.launch(rendered)
    assert launched.done()
    assert launched.result() == scorer.run(rendered)


def test_it_fills_batches_as_its_model_says(checkpoint: Checkpoint) -> None:
    scorer: Scorer = ModelScorer(checkpoint)
    meter = scorer.meter()
    long = Rendered(None, [7] * 40)
    assert scorer.batch_tokens == checkpoint.model.batch_tokens == 4096
    assert [meter.add(long), meter.add(Rendered(None, [*long.token_ids, 8])), meter.add(long)] == [40, 1, 0]


def test_it_cuts_only_when_told_to(checkpoint: Checkpoint) -> None:
    scorer = ModelScorer(checkpoint)
    text = Text("word " * 400)
    with pytest.raises(TooLong):
        scorer.render(text, truncate=False)
    assert scorer.render(text, truncate=True).truncated


def test_it_says_what_it_is(checkpoint: Checkpoint) -> None:
    info = ModelScorer(checkpoint).info
    assert checkpoint.manifest is not None
    assert (info.name, info.fingerprint) == ("llama", checkpoint.fingerprint)
    assert (info.kind, info.architecture) == ("sequence-classification", "LlamaForSequenceClassification")
    assert (info.device, info.dtype, info.dtype_reason) == ("cpu", "float32", "asked for")
    assert (info.attention, info.rendering, info.pooling) == ("packed", "chat_template", "last_non_pad")
    assert info.max_length == checkpoint.manifest.max_length
    assert info.template_sha256 == checkpoint.manifest.template_sha256
    assert info.calibration == checkpoint.manifest.calibration
    assert info.reward == checkpoint.manifest.reward
    assert info.attributes == ()
    assert {"reward_model", "python", "torch", "transformers", "tokenizers"} == set(info.versions)


def test_it_tells_no_paths(checkpoint: Checkpoint, checkpoint_of: Callable[[str], Path]) -> None:
    said = json.dumps(asdict(ModelScorer(checkpoint).info))
    assert str(checkpoint_of("llama").parent) not in said


def test_a_foreign_checkpoint_has_neither_calibration_nor_reference(tmp_path: Path) -> None:
    foreign = load(tiny.tiny_base(tmp_path / "foreign", "bert"), device="cpu", dtype="float32")
    info = ModelScorer(foreign).info
    assert (info.calibration, info.reward, info.template_sha256) == (None, None, None)
    assert (info.rendering, info.kind) == ("pair", "sequence-classification")


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@WHERE
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_ran_out_is_told_as_that(checkpoint: Checkpoint, error: Exception, at_launch: bool) -> None:
    with pytest.raises(MemoryError):
        failing(checkpoint, raising(error), at_launch=at_launch).run([])


@WHERE
@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
)
def test_a_device_that_is_lost_is_told_as_that(checkpoint: Checkpoint, error: Exception, at_launch: bool) -> None:
    with pytest.raises(DeviceLost, match="CUDA error"):
        failing(checkpoint, raising(error), at_launch=at_launch).run([])


@WHERE
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError(),
        IndexError("index out of range in self"),
    ],
)
def test_any_other_error_stays_what_it_is(checkpoint: Checkpoint, error: Exception, at_launch: bool) -> None:
    with pytest.raises(type(error)) as raised:
        failing(checkpoint, raising(error), at_launch=at_launch).run([])
    assert raised.value is error


def test_a_device_that_cannot_say_whether_it_is_done_is_asked_for_the_result(checkpoint: Checkpoint) -> None:
    error = RuntimeError("CUDA error: unspecified launch failure")
    launched = failing(checkpoint, raising(error), at_launch=False).launch([])
    assert launched.done()
    with pytest.raises(DeviceLost):
        launched.result()


@WHERE
def test_an_error_about_memory_does_not_hold_on_to_it(checkpoint: Checkpoint, at_launch: bool) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def run_out_of_memory() -> None:
        activations = torch.zeros(4)
        held.append(weakref.ref(activations))
        msg = "CUDA out of memory."
        raise torch.OutOfMemoryError(msg)

    with pytest.raises(MemoryError) as raised:
        failing(checkpoint, run_out_of_memory, at_launch=at_launch).run([])
    gc.collect()
    assert held[0]() is None
    assert raised.value.__context__ is None
