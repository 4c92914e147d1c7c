"""Everything that lives as long as the process: settings, model, batcher and threads, how they start and end.

Knows in which order, not what a request is.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from reward_model.errors import CheckpointRefused, InputError
from reward_model.records import Conversation, Message, Text
from reward_model.rendering import Rendered
from service.batcher import Batcher
from service.body import BodyBudget
from service.errors import Broken
from service.lifecycle import Lifecycle, Phase
from service.metrics import Metrics
from service.scorer import Scorer
from service.settings import Settings
from service.tokenization import TokenizerPool

log = logging.getLogger(__name__)

#: Bodies of the largest size that may be held at once.
BODIES = 8
#: More than one core's worth, so that a few long texts do not hold up all short ones.
TOKENIZER_THREADS = 4
#: Words of the long warm-up input.
LONGEST_WARM_UP = 2048
#: A batch that takes longer hangs: the largest takes seconds on a GPU, under a minute on a few CPU cores.
STALL_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Engine:
    """What a loaded model brings along."""

    scorer: Scorer
    batcher: Batcher


class Runtime:
    """The service without its routes. Used from the event loop only.

    Args:
        settings: the service's.
        load: makes the scorer; runs in a thread of its own, may take minutes.
        metrics: where to count.

    Attributes:
        on_fatal: called with the error where there will never be a model, or not any more.
    """

    def __init__(self, settings: Settings, load: Callable[[], Scorer], metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.lifecycle = Lifecycle()
        self.bodies = BodyBudget(BODIES * settings.max_body_bytes)
        self.tokenizers = TokenizerPool(TOKENIZER_THREADS)
        self._load = load
        self.on_fatal: Callable[[Exception], None] = _log_fatal
        self._loader: threading.Thread | None = None
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """The loaded model.

        Raises:
            Loading: there is none yet.
            Draining: there is none any more.
        """
        self.lifecycle.check()
        assert self._engine is not None
        return self._engine

    def check_progress(self) -> None:
        """Raises Broken where the model is lost, or is busy with one batch for longer than any batch takes."""
        if self._engine is not None and self._engine.batcher.stalled_seconds > STALL_SECONDS:
            raise Broken

    def start(self) -> None:
        """Begins to load; returns at once."""
        loop = asyncio.get_running_loop()
        # A daemon: nothing can interrupt a load, and a process told to end must not wait for it.
        self._loader = threading.Thread(target=self._load_in_thread, args=(loop,), name="load", daemon=True)
        self._loader.start()

    async def drain(self, *, delay_seconds: float = 0.0, at_once: bool = False) -> None:
        """Lets nothing new in, finishes what is in as far as RM_DRAIN_SECONDS allow, answers the rest 503.

        Args:
            at_once: nothing is finished, since nothing can be.
            delay_seconds: for which a service that was ready says that it is not any more, and serves on: until
                then probes, proxies and endpoint lists have not heard of its end.
        """
        self.lifecycle.leave()
        self.metrics.ready.set(0)
        if self.lifecycle.phase is Phase.LEAVING:
            await asyncio.sleep(delay_seconds)
        self.lifecycle.drain()
        finished = await self.lifecycle.idle(0.0 if at_once else self.settings.drain_seconds)
        log.info("drained" if finished else "drain time is over, the rest is answered 503")
        if self._engine is not None:
            await self._engine.batcher.stop(drain_seconds=0)
        self.lifecycle.end_all()

    async def stop(self) -> None:
        """Ends all threads; drains first where that has not happened."""
        if self.lifecycle.phase is not Phase.DRAINING:
            await self.drain()
        self.tokenizers.close()

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            scorer = self._load()
            warm_up(scorer, self._batch_tokens(scorer))
        except CheckpointRefused as error:
            report = partial(self.on_fatal, error)
        except Exception as error:  # whatever it is, there will be no model: end, do not hang
            log.exception("the model cannot be loaded")
            report = partial(self.on_fatal, error)
        else:
            report = partial(self._loaded, scorer)
        with suppress(RuntimeError):  # the loop is closed: the service has ended in the meantime
            loop.call_soon_threadsafe(report)

    def _batch_tokens(self, scorer: Scorer) -> int:
        chosen = self.settings.max_batch_tokens
        return scorer.batch_tokens if chosen is None else chosen

    def _loaded(self, scorer: Scorer) -> None:
        if self.lifecycle.phase is Phase.DRAINING:
            return
        batcher = Batcher(
            scorer,
            self.metrics,
            max_batch_tokens=self._batch_tokens(scorer),
            max_queue_tokens=self.settings.max_queue_tokens,
            on_broken=lambda: self.on_fatal(Broken()),
        )
        batcher.start()
        self._engine = Engine(scorer, batcher)
        self.metrics.attach_model(scorer.info)
        self.metrics.ready.set(1)
        self.lifecycle.loaded()
        log.info("ready", extra={"fields": {"model": scorer.info.name, "fingerprint": scorer.info.fingerprint}})


def _log_fatal(error: Exception) -> None:
    log.critical("there is no model any more: %s", error)


def warm_up(scorer: Scorer, max_batch_tokens: int) -> None:
    """Runs a small and a large batch once, so that no request pays for what happens on first use."""
    # As long as a batch, not as the context: with 128k positions that would take a CPU many minutes.
    words = "warm up " * min(scorer.info.max_length, max_batch_tokens, LONGEST_WARM_UP)
    prompt = (Message("user", words),)
    try:
        short = scorer.render(Conversation((Message("user", "Hi"),), "Hello"), truncate=True)
        long = scorer.render(Conversation(prompt, "Hello"), truncate=True)
    except InputError:
        # A checkpoint without a chat template has no form for conversations.
        short = scorer.render(Text("Hello"), truncate=True)
        long = scorer.render(Text(words), truncate=True)
    scorer.run([short])
    # On a CPU a full batch only costs time; on a GPU it also settles how much memory is needed.
    copies = 1 if scorer.info.device == "cpu" else max(1, max_batch_tokens // len(long.token_ids))
    scorer.run([_varied(long, place) for place in range(copies)])


def _varied(rendered: Rendered, place: int) -> Rendered:
    """The same with another token at `place`: identical inputs would be computed once."""
    token_ids = list(rendered.token_ids)
    token_ids[place % len(token_ids)] = token_ids[0] if place else token_ids[-1]
    return replace(rendered, token_ids=token_ids)
