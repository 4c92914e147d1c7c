"""Flags and RM_* variables: what they become, and how a wrong one is refused."""

from pathlib import Path

import pytest

from service.settings import Settings


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as refused:
        Settings.load(argv)
    assert refused.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_the_defaults_are_those_that_are_documented() -> None:
    settings = Settings.load(["--model", "demo"])
    assert (settings.host, settings.port, settings.device, settings.dtype) == (
        "127.0.0.1",
        8000,
        "auto",
        "auto",
    )
    assert (settings.max_batch_tokens, settings.max_queue_tokens) == (None, 262144)
    assert (settings.max_body_bytes, settings.max_inputs) == (32 * 1024 * 1024, 4096)
    assert (settings.timeout_seconds, settings.log_level) == (60.0, "info")
    assert (settings.shutdown_delay_seconds, settings.drain_seconds) == (3.0, 10.0)


def test_there_is_exactly_one_field_per_documented_variable() -> None:
    documented = (
        "MODEL REVISION HOST PORT DEVICE DTYPE MAX_LENGTH MAX_BATCH_TOKENS MAX_QUEUE_TOKENS MAX_BODY_BYTES MAX_INPUTS"
        " TIMEOUT_SECONDS SHUTDOWN_DELAY_SECONDS DRAIN_SECONDS API_KEY_FILE CHAT_TEMPLATE SCORE_LABEL"
        " REJECT_SPECIAL_TOKENS DETERMINISTIC LOG_LEVEL"
    )
    assert {name.upper() for name in Settings.model_fields} == set(documented.split())


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "RM_MODEL": "demo", "RM_REVISION": "abc", "RM_HOST": "0.0.0.0", "RM_PORT": "9000", "RM_DEVICE": "cuda:1",
        "RM_DTYPE": "bfloat16", "RM_MAX_LENGTH": "512", "RM_MAX_BATCH_TOKENS": "1024", "RM_MAX_QUEUE_TOKENS": "2048",
        "RM_MAX_BODY_BYTES": "4096", "RM_MAX_INPUTS": "16", "RM_TIMEOUT_SECONDS": "2.5", "RM_DRAIN_SECONDS": "0",
        "RM_SHUTDOWN_DELAY_SECONDS": "1",
        "RM_API_KEY_FILE": "keys", "RM_CHAT_TEMPLATE": "t.jinja", "RM_SCORE_LABEL": "good",
        "RM_REJECT_SPECIAL_TOKENS": "true", "RM_DETERMINISTIC": "1", "RM_LOG_LEVEL": "debug",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load([])
    assert len(values) == len(Settings.model_fields)
    assert settings.port == 9000
    assert settings.api_key_file == Path("keys")
    assert settings.reject_special_tokens is True
    assert settings.deterministic is True
    assert settings.timeout_seconds == 2.5


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RM_MODEL", "from-the-environment")
    monkeypatch.setenv("RM_DETERMINISTIC", "true")
    settings = Settings.load(["--model", "from-the-flag", "--no-deterministic"])
    assert settings.model == "from-the-flag"
    assert settings.deterministic is False


def test_a_missing_model_is_named_as_variable_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys)
    assert "RM_MODEL" in message
    assert "--model" in message


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [("RM_MAX_BATCH_TOKEN", "RM_MAX_BATCH_TOKENS"), ("RM_PROT", "RM_PORT"), ("rm_port", "RM_PORT")],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(
    variable: str, suggestion: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    message = refusal(capsys, "--model", "demo")
    assert f"unknown variable {variable}, did you mean {suggestion}?" in message


def test_an_unknown_variable_like_nothing_known_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RM_SERVICE_PORT_8000_TCP_ADDR", "10.0.0.1")
    assert "unknown variable RM_SERVICE_PORT_8000_TCP_ADDR" in refusal(capsys, "--model", "demo")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RM_PORT", "tcp://10.0.0.1:80"),
        ("RM_PORT", "70000"),
        ("RM_PORT", ""),
        ("RM_DTYPE", "float16"),
        ("RM_DEVICE", "gpu"),
        ("RM_DETERMINISTIC", "maybe"),
        ("RM_TIMEOUT_SECONDS", "nan"),
        ("RM_TIMEOUT_SECONDS", "inf"),
        ("RM_TIMEOUT_SECONDS", "0"),
        ("RM_DRAIN_SECONDS", "-1"),
        ("RM_MAX_LENGTH", "0"),
        ("RM_MAX_INPUTS", "many"),
        ("RM_LOG_LEVEL", "loud"),
        ("RM_MODEL", ""),
    ],
)
def test_a_malformed_variable_is_refused_by_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RM_MODEL", "demo")
    monkeypatch.setenv(variable, value)
    assert f"{variable} is malformed" in refusal(capsys)


def test_a_malformed_flag_is_refused_by_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--max-inputs is malformed" in refusal(capsys, "--model", "demo", "--max-inputs", "x")


@pytest.mark.parametrize("argument", ["--max-batch-token", "--max-batch-token=1", "--prot"])
def test_an_unknown_flag_is_refused_with_the_nearest_known_one(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "--model", "demo", argument)
    assert f"unknown flag {argument.partition('=')[0]}, did you mean --" in message


def test_a_flag_may_not_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown flag --max-batch" in refusal(capsys, "--model", "demo", "--max-batch", "5")


def test_a_flag_without_its_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port" in refusal(capsys, "--model", "demo", "--port")


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        Settings.load(["--help"])
    assert finished.value.code == 0
    text = capsys.readouterr().out
    assert all("--" + name.replace("_", "-") in text for name in Settings.model_fields)
