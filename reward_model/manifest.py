"""`reward_model.json`: what a checkpoint says about itself.

Reading is strict: a version, kind or field that is not understood is refused, never guessed. Knows JSON and hashes,
not models.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from reward_model.atomic import replaced_file
from reward_model.calibration import UNCALIBRATED, Calibration, RewardStatistics
from reward_model.errors import CheckpointRefused
from reward_model.golden import GoldenVector
from reward_model.length_calibration import LengthCalibration
from reward_model.pooling import Pooling
from reward_model.records import Conversation, Message
from reward_model.rendering import Rendering
from reward_model.source import score_files

MANIFEST_FILE = "reward_model.json"
#: Of a checkpoint whose raw score is its reward, and of one with a length calibration: a reader that does not know of
#: it has to refuse that one, since it would serve other numbers.
FORMAT_VERSION, CALIBRATED_VERSION = 1, 2
KIND = "sequence-classification"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of `reward_model.json`.

    Attributes:
        rendering, pooling, max_length, template_sha256: how a conversation becomes a score.
        sha256: hash of each file that the score depends on, by file name.
        attributes, scalarisation: names and weights of the head's labels.
        golden: see `reward_model.golden`; `golden_max_length` is the limit they were rendered with.
        calibration, reward: fitted on held-out pairs.
        length_calibration: taken off raw scores before anything else; golden scores are raw. None for most.
        training: record of the run, for people.
    """

    rendering: Rendering
    pooling: Pooling
    max_length: int
    template_sha256: str | None
    sha256: dict[str, str]
    attributes: tuple[str, ...]
    scalarisation: tuple[float, ...]
    golden_max_length: int
    golden: tuple[GoldenVector, ...]
    calibration: Calibration = UNCALIBRATED
    reward: RewardStatistics | None = None
    training: dict[str, Any] = field(default_factory=dict)
    length_calibration: LengthCalibration | None = None
    kind: str = KIND

    @property
    def fingerprint(self) -> str:
        """Identity of the score function, unchanged by temperature, results or reports."""
        more: dict[str, Any] = {}
        if len(self.attributes) > 1:
            more["scalarisation"] = [self.attributes, self.scalarisation]
        if self.length_calibration is not None:
            more["length_calibration"] = asdict(self.length_calibration)
        return fingerprint(self.sha256, self.kind, self.rendering, self.pooling, self.max_length, more)

    @property
    def format_version(self) -> int:
        """The lowest that says all there is to say."""
        return FORMAT_VERSION if self.length_calibration is None else CALIBRATED_VERSION


def fingerprint(
    hashes: dict[str, str], kind: str, rendering: str, pooling: str, max_length: int, more: dict[str, Any] | None = None
) -> str:
    """`sha256:` over the files' hashes and everything else that decides a score; `more`: what only some have."""
    identity = [sorted(hashes.items()), kind, rendering, pooling, max_length, *([more] if more else [])]
    return "sha256:" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Writes `reward_model.json` into `directory`, in one step."""
    document = {
        "format_version": manifest.format_version,
        "kind": manifest.kind,
        "fingerprint": manifest.fingerprint,
    }
    document |= {key: value for key, value in asdict(manifest).items() if key != "golden"}
    if manifest.length_calibration is None:
        del document["length_calibration"]  # which readers of the first version do not know
    document["golden"] = [_golden_to_json(vector) for vector in manifest.golden]
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    with replaced_file(directory / MANIFEST_FILE) as file:
        file.write(f"{text}\n".encode())


def read_manifest(directory: Path) -> Manifest | None:
    """Reads `reward_model.json`; None where there is none (a foreign checkpoint).

    Raises:
        CheckpointRefused: it is not understood.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        manifest = _from_json(document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{MANIFEST_FILE} cannot be read ({type(error).__name__}: {error}): write the checkpoint again"
        raise CheckpointRefused(msg) from error
    if document["fingerprint"] != manifest.fingerprint:
        msg = f"{MANIFEST_FILE} was changed by hand: its fingerprint does not match what it says"
        raise CheckpointRefused(msg)
    return manifest


def verify_files(manifest: Manifest, directory: Path) -> None:
    """Compares every recorded file with its hash.

    Raises:
        CheckpointRefused: a file is missing or differs.
    """
    unrecorded = sorted({path.name for path in score_files(directory)} - manifest.sha256.keys())
    if unrecorded:
        msg = f"{', '.join(unrecorded)} could change the score, but the checkpoint was written without"
        raise CheckpointRefused(msg)
    for name, expected in manifest.sha256.items():
        path = directory / name
        if not path.is_file():
            msg = f"{name} is missing: the checkpoint is incomplete"
            raise CheckpointRefused(msg)
        if hash_file(path) != expected:
            msg = f"{name} differs from the file the checkpoint was written with (SHA-256 mismatch)"
            raise CheckpointRefused(msg)


def _from_json(document: dict[str, Any]) -> Manifest:
    version = document.pop("format_version")
    if version not in {FORMAT_VERSION, CALIBRATED_VERSION}:
        known = f"{FORMAT_VERSION} and {CALIBRATED_VERSION}"
        msg = f"{MANIFEST_FILE} has format version {version!r}, this release reads {known}: update the service"
        raise CheckpointRefused(msg)
    fields = {key: value for key, value in document.items() if key != "fingerprint"}
    _one_of("kind", fields["kind"], (KIND,))
    _one_of("rendering", fields["rendering"], get_args(Rendering))
    _one_of("pooling", fields["pooling"], get_args(Pooling))
    if not fields["golden"]:
        msg = f"{MANIFEST_FILE} has no golden vectors, so nothing vouches for the score: write the checkpoint again"
        raise CheckpointRefused(msg)
    reward = fields.pop("reward")
    if version == CALIBRATED_VERSION:
        curve = fields["length_calibration"]
        lists = {key: tuple(curve[key]) for key in ("lengths", "biases")}
        fields["length_calibration"] = LengthCalibration(**curve | lists)
    elif "length_calibration" in fields:
        msg = f"{MANIFEST_FILE} has a length calibration, which format version {version} has not"
        raise CheckpointRefused(msg)
    manifest = Manifest(
        golden=tuple(_golden_from_json(vector) for vector in fields.pop("golden")),
        calibration=Calibration(**fields.pop("calibration")),
        reward=None if reward is None else RewardStatistics(**reward | {"deciles": tuple(reward["deciles"])}),
        **fields,
    )
    return replace(manifest, attributes=tuple(manifest.attributes), scalarisation=tuple(manifest.scalarisation))


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        msg = f"{MANIFEST_FILE} has {name} {value!r}, this release knows {', '.join(known)}"
        raise CheckpointRefused(msg)


def _golden_to_json(vector: GoldenVector) -> dict[str, Any]:
    conversation = asdict(vector.record)
    return {**conversation, "token_ids": list(vector.token_ids), "score": vector.score}


def _golden_from_json(document: dict[str, Any]) -> GoldenVector:
    prompt = tuple(Message(**message) for message in document["prompt"])
    conversation = Conversation(prompt, document["response"], document["finished"])
    return GoldenVector(conversation, tuple(document["token_ids"]), float(document["score"]))
