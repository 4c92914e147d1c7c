"""Fixtures shared by all rooms: tiny checkpoints, written once a session, and a second core."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import effort  # noqa: F401 - makes a profile known that a command line may name
import pytest
import tiny
import torch
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()
torch.set_num_threads(1)
# Training is tested in fp32 on every machine, unless a test asks for bf16.
os.environ["ACCELERATE_MIXED_PRECISION"] = "no"


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Two threads for torch, where tests have one."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a tiny checkpoint with our manifest, by architecture."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            directory = tmp_path_factory.mktemp("checkpoints") / architecture
            made[architecture] = tiny.tiny_checkpoint(directory, architecture)
        return made[architecture]

    return get
