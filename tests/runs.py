"""Training runs in processes of their own: alone, several together, or killed at any moment.

They are forked from one process that has imported everything, so that starting one takes a fraction of a second.
"""

import json
import multiprocessing
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["training.train"])
_WORDS = ("red", "blue", "green", "small", "large", "old", "new")


def argv(directory: Path, output: str, architecture: str = "llama", *, pairs: int = 27, **flags: object) -> list[str]:
    """Flags of `training.train` for a tiny model and pairs in which the polite response wins.

    Args:
        directory: of the base model, the data and the output.
        output: its name.
        architecture: of the base.
        pairs: how many to train on.
        flags: more; `None` for one without a value.
    """
    base, data, held_out = directory / f"base-{architecture}", directory / "pairs.jsonl", directory / "held_out.jsonl"
    if not base.exists():
        tiny.tiny_base(base, architecture)
    write_pairs(data, range(pairs))
    write_pairs(held_out, range(100, 112))
    given: dict[str, object] = {
        "model_name_or_path": base,
        "dataset_name": data,
        "eval_dataset_name": held_out,
        "output_dir": directory / output,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    parts = [[f"--{name}"] if value is None else [f"--{name}", str(value)] for name, value in (given | flags).items()]
    return [part for both in parts for part in both]


def write_pairs(path: Path, numbers: range) -> None:
    """Pairs of all lengths with a planted preference."""
    rows = []
    for i in numbers:
        word, more = _WORDS[i % 7], " ".join(_WORDS[: i * i % 6])
        rows.append(
            {"prompt": f"Which {word} {i}? {more}", "chosen": f"Gladly: {word}.", "rejected": f"Go away {more}!"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """What a run has written."""
    loaded: dict[str, torch.Tensor] = load_file(directory / "model.safetensors")
    return loaded


def losses(printed: str) -> list[float]:
    """The training losses that a run has logged."""
    return [float(value) for value in re.findall(r"'loss': '([^']+)'", printed)]


def start(function: Callable[..., object], *args: object, log: Path, **environment: object) -> BaseProcess:
    """Begins `function(*args)`, whose value becomes the exit code; what it prints goes to the file `log`."""
    process = _SERVER.Process(target=_run, args=(function, args, log, environment))
    process.start()
    return process


def start_together(function: Callable[..., object], *args: object, logs: Sequence[Path]) -> list[BaseProcess]:
    """The same in as many processes as there are logs, which find each other as those of torchrun do."""
    number = len(logs)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    return [start(function, *args, log=log, RANK=i, LOCAL_RANK=i, **shared) for i, log in enumerate(logs)]


def ended(*processes: BaseProcess, seconds: float = 120) -> list[int | None]:
    """The exit codes of processes that end by themselves; None for one that does not, which is killed."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _run(function: Callable[..., object], args: Sequence[object], log: Path, environment: dict[str, object]) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    with log.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(function(*args))  # type: ignore[arg-type]
