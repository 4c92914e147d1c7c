"""Every setting of the service, and the only reader of its environment.

A variable RM_X and a flag --x are the same setting; the flag wins. Knows what is well-formed, not what it
does.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from pydantic import Field, FiniteFloat, StringConstraints, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "RM_"
USAGE_ERROR = 2

Text = Annotated[str, StringConstraints(min_length=1)]


def spin_briefly() -> None:
    """Has threads that wait for each other leave their cores to others sooner than by default.

    By its default torch's OpenMP turns in circles for milliseconds, and so keeps whoever everybody waits for from a
    core, where there is something else to run. It reads this when it is loaded; OMP_WAIT_POLICY and GOMP_SPINCOUNT
    (libgomp's manual, section 4) of the environment win. Figures are in docs/service.md.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


class Settings(BaseSettings):
    """The service's settings; the field descriptions are the reference."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, case_sensitive=False, frozen=True, extra="forbid", hide_input_in_errors=True,
        protected_namespaces=(),
    )  # fmt: skip

    model: Text = Field(description="checkpoint directory, or a model's name on the hub")
    revision: Text | None = Field(default=None, description="commit of a model on the hub")
    host: Text = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the hardware is fast at it, else float32"
    )
    max_length: int | None = Field(
        default=None, ge=1, description="tokens of one input; default: what the checkpoint was trained with"
    )
    max_batch_tokens: int | None = Field(
        default=None, ge=1, description="tokens that one forward pass takes; default: 4096 on a CPU, else 16384"
    )
    max_queue_tokens: int = Field(default=262_144, ge=1, description="waiting tokens above which new requests get 503")
    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, description="bytes of one request body")
    max_inputs: int = Field(default=4096, ge=1, description="inputs or responses of one request")
    timeout_seconds: FiniteFloat = Field(
        default=60.0,
        gt=0,
        description="longest that a request may take; X-Request-Timeout can only shorten it",
    )
    shutdown_delay_seconds: FiniteFloat = Field(
        default=3.0,
        ge=0,
        description="how long after SIGTERM, readiness being off, new work is still accepted; Ctrl-C does not wait",
    )
    drain_seconds: FiniteFloat = Field(default=10.0, ge=0, description="how long accepted work may go on after that")
    api_key_file: Path | None = Field(
        default=None, description="file with one API key a line; with it, requests need Authorization: Bearer"
    )
    chat_template: Path | None = Field(
        default=None, description="Jinja file, for a foreign checkpoint that has no chat template"
    )
    score_label: Text | None = Field(
        default=None, description="which label of a foreign head with several is the score"
    )
    reject_special_tokens: bool = Field(
        default=False, description="answer 422 where a message contains the text of a special token"
    )
    deterministic: bool = Field(
        default=False, description="an input's score is bitwise the same whatever else is in its batch"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe level that is logged"
    )

    @classmethod
    def load(cls, argv: Sequence[str]) -> Self:
        """Reads flags and environment.

        Exits with code 2 and one line on stderr that names the setting which is unknown, malformed or missing.
        """
        flags = vars(_parser().parse_args(argv))
        _refuse_unknown_variables(os.environ)
        try:
            return cls(**flags)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            _refuse(_describe(str(first["loc"][0]), first["type"], first["msg"], flags))


class _Parser(argparse.ArgumentParser):
    """argparse, with one line instead of a usage text, and with suggestions."""

    def error(self, message: str) -> NoReturn:
        """Names the unknown flag and its nearest known one."""
        marker = "unrecognized arguments: "
        if not message.startswith(marker):
            _refuse(message)
        word = message.removeprefix(marker).split()[0].partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        kind = "flag" if word.startswith("-") else "argument"
        _refuse(f"unknown {kind} {word}{_suggestion(word, known)}")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m service",
        description="Serves a reward model over HTTP.",
        epilog=f"Each flag can also be given as a variable: --max-length is {PREFIX}MAX_LENGTH. Flags win.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        _add_flag(parser, name, field)
    return parser


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    default = "" if field.is_required() or field.default is None else f" (default: {field.default})"
    text = f"{field.description}{default}"
    if field.annotation is bool:
        parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, dest=name, help=text)
    else:
        parser.add_argument(_flag(name), dest=name, metavar=name.rpartition("_")[2].upper(), help=text)


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = [_variable(name) for name in Settings.model_fields]
    for variable in sorted(environ):
        if variable.upper().startswith(PREFIX) and variable not in known:
            _refuse(f"unknown variable {variable}{_suggestion(variable.upper(), known)}")


def _describe(name: str, kind: str, message: str, flags: Mapping[str, object]) -> str:
    if kind == "missing":
        return f"{_variable(name)} (or {_flag(name)}) is required: {Settings.model_fields[name].description}"
    source = _flag(name) if name in flags else _variable(name)
    return f"{source} is malformed: {message[:1].lower()}{message[1:]}"


def _suggestion(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"service: {message}\n")
    raise SystemExit(USAGE_ERROR)
