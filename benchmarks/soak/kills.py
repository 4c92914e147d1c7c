"""Is a checkpoint ever half-written, or a service ever half-started, whenever its process is killed?

A process saves a checkpoint over the one before, and gets SIGKILL at a random moment: what is there then must load,
golden scores included, and be the old one or the new one; saves that write in place, to compare, must be found out. A
service that is starting gets SIGKILL as well, and must start again with the same model from the same bytes. (Kills in
the middle of a training run: tests/training/test_resume.py.)
"""

import hashlib
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from benchmarks.soak import servers
from benchmarks.soak.servers import free_port
from benchmarks.soak.verdicts import Verdict, parser, report
from reward_model import checkpoint
from reward_model.errors import CheckpointRefused
from reward_model.model import RewardModel
from reward_model.pretrained import load_network, load_tokenizer

#: Moments reach this much beyond the time that a save, or a start, takes.
BEYOND = 1.1
#: Failures that are printed; all are counted.
SHOWN = 5


@dataclass(slots=True)
class Tally:
    """What was found after the kills so far."""

    found: Counter[str] = field(default_factory=Counter)
    leftovers: int = 0
    failures: list[str] = field(default_factory=list)

    def lines(self) -> str:
        """All of it."""
        return "".join(f"\n        {one}" for one in self.failures[:SHOWN])


class Saver:
    """Saves a checkpoint again and again, each time with another mark on its head.

    Args:
        source: a checkpoint.
        target: where to save.
        in_place: writes into the target itself, which is the defect that must be found.
    """

    def __init__(self, source: Path, target: Path, *, in_place: bool) -> None:
        self.target = target
        self._in_place = in_place
        loaded = checkpoint.load(source, device="cpu", dtype="float32")
        # One that has been loaded only scores: its weights are laid out for that.
        scalarisation, precision = loaded.model.scalarisation, loaded.model.precision
        self._model = RewardModel(load_network(source), precision, scalarisation=scalarisation)
        self._max_length = loaded.renderer.max_length
        self._tokenizer = load_tokenizer(source)

    def save(self, mark: float) -> None:
        """Writes a checkpoint that bears `mark`."""
        if self._in_place:
            vars(checkpoint)["replaced_directory"] = _in_place
        with torch.no_grad():
            _last(self._model.model).fill_(mark)
        checkpoint.save(self._model, self._tokenizer, self.target, max_length=self._max_length)

    def found(self) -> float:
        """The mark of what is there.

        Raises:
            CheckpointRefused: it is no whole checkpoint.
        """
        if checkpoint.load(self.target, device="cpu", dtype="float32").manifest is None:
            msg = "the manifest is missing, so it would be taken for somebody else's"
            raise CheckpointRefused(msg)
        return float(_last(load_network(self.target)).flatten()[0])


@contextmanager
def _in_place(target: Path) -> Iterator[Path]:
    """What `replaced_directory` would be if it replaced nothing."""
    shutil.rmtree(target)
    target.mkdir()
    yield target


def _last(network: nn.Module) -> nn.Parameter:
    """A small parameter at the end of the network, of its head."""
    return list(network.parameters())[-1]


def kill_saves(source: Path, target: Path, kills: int, rng: random.Random, *, in_place: bool = False) -> Tally:
    """Kills saves at random moments, and looks at what each has left at `target`."""
    shutil.copytree(source, target)
    saver, tally = Saver(source, target, in_place=in_place), Tally()
    started = time.perf_counter()
    saver.save(1.0)
    takes = BEYOND * (time.perf_counter() - started)
    before = 1.0
    for i in range(kills):
        mark = float(i + 2)
        _killed(saver.save, mark, rng.uniform(0, takes))
        tally.leftovers += _clear(saver.target)
        try:
            found = saver.found()
        except (CheckpointRefused, OSError) as error:
            tally.failures.append(f"save {i}: {error}")
            saver.save(before)
            continue
        if found not in {before, mark}:
            tally.failures.append(f"save {i}: the head says {found}, neither {before} nor {mark}")
        tally.found["the new one" if found == mark else "the old one"] += 1
        before = found
        _tell_progress(i + 1, kills, "saves", tally)
    return tally


def _killed(work: Callable[[float], None], mark: float, after: float) -> None:
    """Does `work(mark)` in a process that is killed `after` seconds from its beginning."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=_begin, args=(work, mark, begun))
    process.start()
    begun.wait()
    time.sleep(after)
    process.kill()
    process.join()


def _begin(work: Callable[[float], None], mark: float, begun: Event) -> None:
    begun.set()
    work(mark)


def _clear(target: Path) -> int:
    """Removes what killed saves have left beside `target`; how many."""
    left = list(target.parent.glob(f".{target.name}.*"))
    for path in left:
        shutil.rmtree(path)
    return len(left)


def kill_starts(directory: Path, kills: int, rng: random.Random) -> Tally:
    """Kills a service that is starting at random moments, and starts it once more."""
    tally, bytes_before = Tally(), _digest(directory)
    started = time.perf_counter()
    identity = _served(directory)
    takes = BEYOND * (time.perf_counter() - started)
    for i in range(kills):
        command = [sys.executable, "-m", "service", "--model", str(directory), "--port", str(free_port())]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603
        time.sleep(rng.uniform(0, takes))
        process.kill()
        tally.found[f"exit code {process.wait()}"] += 1
        _tell_progress(i + 1, kills, "starts", tally)
    if (now := _served(directory)) != identity:
        tally.failures.append(f"it serves {now} instead of {identity}")
    if _digest(directory) != bytes_before:
        tally.failures.append("the checkpoint's files have changed")
    return tally


def _tell_progress(done: int, total: int, what: str, tally: Tally) -> None:
    if done % 10 == 0:
        print(f"{done} of {total} {what} killed, {dict(tally.found)}", file=sys.stderr, flush=True)


def _served(directory: Path) -> str:
    """The fingerprint that a service of a checkpoint states once it is ready."""
    with servers.real(str(directory)) as process:
        return str(httpx.get(f"http://127.0.0.1:{process.port}/model").json()["fingerprint"])


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(str(path.relative_to(directory)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def soak(model: Path, saves: int, starts: int, seed: int) -> list[Verdict]:
    """Kills, and judges."""
    rng = random.Random(seed)
    torch.set_num_threads(1)  # threads of a pool do not come along into a forked process
    # A progress bar's lock is shared with forked processes: one that is killed while it holds it holds up this one.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        saved = kill_saves(model, Path(folder) / "checkpoint", saves, rng)
        planted = kill_saves(model, Path(folder) / "planted", saves, rng, in_place=True)
    started = kill_starts(model, starts, rng)
    return [
        Verdict(
            "after each killed save a whole checkpoint is there, the old one or the new one",
            not saved.failures and saved.found.total() == saves,
            f"{len(saved.failures)} of {saves} are not; {dict(saved.found)}{saved.lines()}",
        ),
        Verdict(
            "saves were killed in the middle",
            saved.leftovers > 0,
            f"{saved.leftovers} of {saves} left unfinished files beside the checkpoint",
        ),
        Verdict(
            "saves that write in place are found out",
            bool(planted.failures),
            f"{len(planted.failures)} of {saves} left no whole checkpoint",
        ),
        Verdict(
            "after killed starts the same model is served from the same files",
            not started.failures,
            f"{dict(started.found)}{started.lines()}",
        ),
    ]


def main(argv: list[str]) -> int:
    """Runs; 0 if all holds."""
    flags = parser(__doc__)
    flags.add_argument("--model", type=Path, required=True, help="directory of a checkpoint, which is only read")
    flags.add_argument("--saves", type=int, default=100, help="that are killed")
    flags.add_argument("--starts", type=int, default=30, help="that are killed")
    flags.add_argument("--seed", type=int, default=0)
    given = flags.parse_args(argv)
    counts: dict[str, object] = {"model": given.model, "seed": given.seed}
    return 0 if report("kills", soak(given.model, given.saves, given.starts, given.seed), counts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
