"""`python -m service --model DIR`: from settings to a server that listens, and to an orderly end.

Exit codes: 0 after a signal, 1 for an unforeseen failure, 2 for a wrong setting, 3 for a refused checkpoint.
"""

import logging
import os
import sys

from service.settings import USAGE_ERROR, Settings, spin_briefly

spin_briefly()  # before torch is loaded

# isort: split
from transformers.utils import logging as transformers_logging

from reward_model import checkpoint
from service import logs
from service.app import create_app
from service.scorer import ModelScorer, Scorer
from service.server import FAILED, Server, settled


def main(argv: list[str]) -> int:
    """Serves until a signal; returns the exit code."""
    settings = Settings.load(argv)
    logs.configure(settings.log_level)
    try:
        app = create_app(settings, settled(lambda: load(settings)))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"service: RM_API_KEY_FILE: {error}\n")
        return USAGE_ERROR
    server = Server(app, settings)
    try:
        listening = server.config.bind_socket()
    except SystemExit:
        # uvicorn ends with the exit code that here means a refused checkpoint, and names no address.
        sys.stderr.write(f"service: cannot listen on {settings.host}:{settings.port}\n")
        return FAILED
    server.run(sockets=[listening])
    return server.exit_code


def load(settings: Settings) -> Scorer:
    """The checkpoint that the settings name, loaded and verified; may take minutes."""
    # stderr is for JSON lines, not for bars.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    loaded = checkpoint.load(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        max_length=settings.max_length,
        chat_template=settings.chat_template,
        score_label=settings.score_label,
        deterministic=settings.deterministic,
    )
    return ModelScorer(loaded)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stderr.flush()
    # Not sys.exit: it would wait for a model that is still loading, or for a text that is still being tokenised.
    os._exit(status)
