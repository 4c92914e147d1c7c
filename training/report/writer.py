"""Report and card on disk, beside the checkpoint that they are about. Knows files, not what is in them."""

import hashlib
import logging
from pathlib import Path

from reward_model.atomic import replaced_file
from reward_model.manifest import Manifest
from training.report.card import card
from training.report.log import LOG_FILE, TrainingLog
from training.report.page import page
from training.report.subject import Subject
from training.report.verdicts import HELD_OUT_FILE, Verdicts

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
CARD_FILE = "README.md"
#: The card's last line tells whether somebody has edited what is above it.
_SEAL = "<!-- written by training.report, {} -->\n"


def write_report(subject: Subject, directory: Path) -> None:
    """Writes report and card; a card that was edited by hand is left as it is.

    With texts in it, only its owner can read the report.

    Raises:
        OSError: they cannot be written.
    """
    _write(page(subject), directory / REPORT_FILE, 0o600 if subject.disagreements else 0o644)
    path, text = directory / CARD_FILE, card(subject)
    if path.exists() and not is_ours(path):
        logger.warning("%s was edited and is left as it is: move it away to have a new one", path)
        return
    _write(text + _seal(text), path, 0o644)


def write_beside(directory: Path, manifest: Manifest, log: TrainingLog | None, verdicts: Verdicts | None) -> None:
    """What a stage that made a checkpoint leaves in its directory: log, scores, report and card.

    The checkpoint is whole without them, so what cannot be written is a warning.
    """
    try:
        if log:
            log.write(directory / LOG_FILE)
        if verdicts:
            verdicts.write(directory / HELD_OUT_FILE)
        write_report(Subject(directory.name, manifest.fingerprint, manifest, log, verdicts, own=True), directory)
    except OSError as error:
        logger.warning("the checkpoint is written, its report is not: %s", error)


def _write(text: str, path: Path, mode: int) -> None:
    with replaced_file(path, mode) as file:
        file.write(text.encode())


def _seal(text: str) -> str:
    return _SEAL.format("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def is_ours(path: Path) -> bool:
    """Whether a card is as `write_report` left it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    body = text.rpartition("<!-- ")[0]
    return text == body + _seal(body)
