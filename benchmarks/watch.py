"""What a run of transformers' `Trainer` says of itself, step by step: when each step ended, its loss, memory.

Both sides of `benchmarks.training` import it, each in an environment of its own: knows transformers, nothing of ours.
"""

import json
import resource
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Watch(TrainerCallback):
    """Notes the clock at the end of each optimiser step, and each loss that is logged.

    Attributes:
        ended: seconds by a clock of no particular zero, one for each step.
        computed: seconds that all threads together have computed until then.
        losses: as logged; one for each step with `--logging_steps 1`.
        peak_megabytes: most memory resident until the last step.
    """

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.computed: list[float] = []
        self.losses: list[float] = []
        self.peak_megabytes = 0.0

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002 - the callback's signature
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Notes the clock and the memory."""
        self.ended.append(time.perf_counter())
        self.computed.append(time.process_time())
        self.peak_megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Notes the loss."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])

    def write(self, path: Path, **more: Any) -> None:
        """Writes all as JSON, with `more` beside it."""
        names = ("ended", "computed", "losses", "peak_megabytes")
        record = {name: getattr(self, name) for name in names}
        path.write_text(json.dumps(record | more), encoding="utf-8")
