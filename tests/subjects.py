"""Made-up subjects of reports: pairs with rewards, and a training log, without any model."""

import math
import random
from itertools import combinations

from reward_model.calibration import Calibration, fit, reward_statistics
from reward_model.golden import GoldenVector
from reward_model.manifest import Manifest
from reward_model.records import Conversation, as_prompt
from training.report.log import TrainingLog
from training.report.subject import Subject
from training.report.verdicts import DataSet, Verdict, Verdicts

FLAGS = {
    "model_name_or_path": "base/model",
    "dataset_name": "pairs.jsonl",
    "learning_rate": 1e-05,
    "attributes": ["a b"],
}


def verdicts(n: int = 400, *, seed: int = 0, scale: float = 1.0, category: str = "kind") -> Verdicts:
    """Pairs of which the model gets most right; every 50th has no score, every 40th is a tie."""
    draw = random.Random(seed)
    pairs = []
    for i in range(n):
        right, length = draw.gauss(0.8, 1.2) * scale, draw.randint(1, 900)
        rewards = None if i % 50 == 49 else (right, 0.0) if draw.random() < 0.5 else (-1.0, -1.0 - right)
        lengths = (length, draw.randint(1, 900))
        label = 0.5 if i % 40 == 39 else 1.0
        pairs.append(
            Verdict(
                i + 1,
                i // 2,
                (0, 1),
                rewards,
                lengths,
                label,
                f"source_{i % 13}_of_many_of_them",
                f"{category} {i % 4}",
            )
        )
    return Verdicts(DataSet("pairs.jsonl", "sha256:0"), "characters", tuple(pairs))


def ranked(sizes: tuple[int, ...] = (5, 5, 4, 5, 3)) -> Verdicts:
    """Rankings of so many responses, of which the first is the best; the model agrees more or less."""
    draw = random.Random(1)
    pairs = []
    for line, size in enumerate(sizes, start=1):
        rewards = [draw.gauss(-place, 1.5) for place in range(size)]
        pairs += [
            Verdict(line, line, (a, b), (rewards[a], rewards[b]), (9 + a, 9 + b), 1.0, None, None)
            for a, b in combinations(range(size), 2)
        ]
    return Verdicts(DataSet("ranked.jsonl", None), "tokens", tuple(pairs))


def log(steps: int = 60) -> TrainingLog:
    """Losses that fall, with two looks at held-out pairs."""
    points = [
        {
            "step": float(i),
            "epoch": i / steps,
            "loss": 0.3 + 0.4 * math.exp(-i / 20) + 0.02 * (i % 3),
            "accuracy": 0.5 + i / 3 / steps,
        }
        for i in range(1, steps + 1)
    ]
    points += [
        {"step": steps / part, "eval_loss": 0.6 - 0.1 / part, "eval_accuracy": 0.6 + 0.1 / part} for part in (2, 1)
    ]
    return TrainingLog(tuple(points), 75.2, "a processor, 2 threads", 1, "org/base", None)


def manifest(found: Verdicts) -> Manifest:
    """What a checkpoint with these held-out pairs would say of itself."""
    scored = found.scored
    calibration = fit([one.margin for one in scored], [one.prompt for one in scored]) if scored else Calibration()
    rewards = [reward for one in scored for reward in one.rewards or ()]
    return Manifest(
        rendering="chat_template",
        pooling="cls",
        max_length=128,
        template_sha256=None,
        sha256={"config.json": "0"},
        attributes=("reward",),
        scalarisation=(1.0,),
        golden_max_length=8,
        golden=(GoldenVector(Conversation(as_prompt("q"), "a"), (1, 2), 0.5),),
        calibration=calibration,
        reward=reward_statistics(rewards),
        training={
            "dataset": "/home/somebody/pairs.jsonl",
            "dataset_fingerprint": "sha256:1",
            "pairs": 1200,
            "bad_rows": {"rows": 1203, "rejected": 3, "reasons": {"too_long": {"count": 3, "example": "quoted"}}},
            "eval_dataset": "5% of the prompts, seed 42",
            "eval_pairs": len(found.pairs),
            "seed": 42,
            "flags": FLAGS,
            "versions": {"reward_model": "0.1.0", "torch": "2.13.0"},
        },
    )


def subject(found: Verdicts | None = None, *, own: bool = True) -> Subject:
    """All there can be."""
    found = found or verdicts()
    made = manifest(found)
    return Subject("a-model", made.fingerprint, made, log(), found, own=own)
