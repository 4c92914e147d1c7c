"""Rewards for RLHF loops from a running service: the functions that three of them call, each in its own form.

RM_URL says where the service is. A loop's environment needs httpx and this repository, or `service/client.py`, on its
PYTHONPATH.

- TRL: `GRPOTrainer(reward_funcs=trl_reward, ...)`, and `RLOOTrainer` likewise.
- verl: `reward.custom_reward_function.path=examples/reward_functions.py` and `.name=verl_reward`, with the prompt, a
  string or messages, as `prompt` in the data's `extra_info`.
- OpenRLHF: `--reward.remote_url examples/reward_functions.py`, which looks for `reward_func`. It hands over whole
  texts, so the policy must have the reward model's chat template.

Prompts that are too long lose their oldest part, as in training, but for whole texts. What the service refuses or
cannot answer in time is raised; what a loop makes of that is its own. verl's and OpenRLHF's forms follow their code of
August 2026; none of the three has been run with these.
"""

import asyncio
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from service.client import Client


@cache
def client() -> Client:
    """One for the process; its connections are shared by all threads."""
    return Client(os.environ.get("RM_URL", "http://127.0.0.1:8000"))


def scores(inputs: Sequence[dict[str, Any]]) -> list[float]:
    """One for each, in their order."""
    return list(client().score(inputs, truncate=True)["scores"])


def trl_reward(prompts: Sequence[Any], completions: Sequence[Any], **_: object) -> list[float]:
    """For strings and for lists of messages; other columns of the data set are ignored."""
    return scores(
        [
            {"prompt": prompt, "response": completion}
            if isinstance(completion, str)
            else {"messages": [*prompt, *completion]}
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
    )


async def verl_reward(solution_str: str, extra_info: dict[str, Any], **_: object) -> float:
    """Of one response; verl asks for many at once."""
    (score,) = await asyncio.to_thread(scores, [{"prompt": extra_info["prompt"], "response": solution_str}])
    return score


def reward_func(queries: Sequence[str], **_: object) -> dict[str, Any]:
    """For OpenRLHF, as tensors; the queries are prompt and response with all special tokens."""
    import torch  # noqa: PLC0415 - the other loops do not need it here

    rewards = torch.tensor(scores([{"text": query} for query in queries]))
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"reward": rewards}}
