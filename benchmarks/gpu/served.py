"""The service over HTTP with one sample in a request, beside the engine in this process, on the same model.

Samples are token ids: what is measured is the way to the device, not a tokenizer that nobody has.
"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from benchmarks.clients import Load, closed_loop, post
from benchmarks.contestants import contestants, running
from benchmarks.gpu import device as limits
from benchmarks.gpu import lengths, models
from benchmarks.gpu.throughput import run_launched
from benchmarks.weights import Weights
from reward_model import checkpoint
from reward_model.model import RewardModel
from reward_model.precision import Precision
from reward_model.template import DECODER_TEMPLATE

CLIENTS = (32, 256)
#: Of the service, beside those of the model.
NEEDED = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic_settings", "prometheus_client")


def measure(shape: str, device: torch.device, dtype: torch.dtype, rounds: int, count: int) -> list[dict[str, object]]:
    """Prints a table and returns its figures; `count` requests make a measurement."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"\nnot measured over HTTP: {', '.join(missing)} not installed")
        return []
    vocabulary = models.SHAPES[shape]["vocab_size"]
    sequences = lengths.sequences([300] * 256, vocabulary=vocabulary)
    requests = [post("/score", json.dumps({"inputs": [{"token_ids": ids}]}).encode()) for ids in sequences]
    home = Path(tempfile.mkdtemp())
    try:
        written = write(shape, device, home / "checkpoint")
        weights = Weights(written, written, written)
        model = checkpoint.load(
            written, device=str(device), dtype="float32" if dtype == torch.float32 else "bfloat16"
        ).model
        rows: list[dict[str, object]] = []
        with running(contestants()[0], weights, home, home / "service.log") as server, server.awake():
            print(f"\n{shape} over HTTP, 300 tokens\n")
            print("| clients | requests/s (low to high) | of the engine |\n|---|---|---|")
            for clients in CLIENTS:
                load = partial(closed_loop, server.port, requests, connections=clients, count=count)
                runs: dict[str, Callable[[], object]] = {
                    "service": partial(_run, load),
                    "engine": partial(run_launched, model, sequences, model.batch_tokens),
                }
                sample = limits.in_turns(runs, rounds, device)
                rate, engine = count / sample["service"].median, len(sequences) / sample["engine"].median
                low, high = count / sample["service"].high, count / sample["service"].low
                print(f"| {clients} | {rate:.0f} ({low:.0f} to {high:.0f}) | {rate / engine:.0%} |", flush=True)
                rows.append({"clients": clients, "rate": rate, "of_engine": rate / engine})
        return rows
    finally:
        shutil.rmtree(home)


def _run(load: Callable[[], Coroutine[None, None, Load]]) -> Load:
    import uvloop  # noqa: PLC0415 - only where it is installed

    return uvloop.run(load())


def write(shape: str, device: torch.device, directory: Path) -> Path:
    """A checkpoint of random weights with a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>"]
    backend = Tokenizer(BPE({token: i for i, token in enumerate([*names, *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = dict(zip(("pad_token", "bos_token", "eos_token"), names, strict=True))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, chat_template=DECODER_TEMPLATE, **special
    )
    model = RewardModel(models.network(shape, device), Precision(device, torch.float32, "of the benchmark")).eval()
    checkpoint.save(model, tokenizer, directory, max_length=512)
    return directory
