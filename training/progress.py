"""Who shows a bar: one of all processes of a machine. Knows nothing of what takes its time."""

import os


def hidden() -> bool | None:
    """For tqdm's `disable`: a bar on a terminal alone, in the first process (torchrun and accelerate number them)."""
    return None if os.environ.get("LOCAL_RANK", "0") == "0" else True
