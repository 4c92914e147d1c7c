"""A directory is replaced whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reward_model.atomic import checked_target, replaced_directory


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_a_new_directory_appears_with_all_its_files(tmp_path: Path) -> None:
    with replaced_directory(tmp_path / "deep" / "new") as staging:
        (staging / "a").write_text("1")
        assert not (tmp_path / "deep" / "new").exists()
    assert contents(tmp_path / "deep" / "new") == {"a": "1"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


def test_an_old_directory_is_replaced_not_merged(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with replaced_directory(tmp_path / "target") as staging:
            (staging / name).write_text(name)
    assert contents(tmp_path / "target") == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_files_can_be_read_by_whoever_serves_them(tmp_path: Path) -> None:
    with replaced_directory(tmp_path / "target") as staging:
        (staging / "private").write_text("x")
        (staging / "private").chmod(0o600)
    assert (tmp_path / "target" / "private").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o755


def test_only_a_checkpoint_or_nothing_may_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis").mkdir()
    assert checked_target(tmp_path / "thesis") == tmp_path / "thesis"
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="would be lost"):
        checked_target(tmp_path / "thesis")
    (tmp_path / "thesis" / "reward_model.json").write_text("{}")
    assert checked_target(tmp_path / "thesis") == tmp_path / "thesis"
    monkeypatch.chdir(tmp_path / "thesis")
    for name in (".", "thesis.txt"):
        with pytest.raises(FileExistsError, match="a directory of its own"):
            checked_target(Path(name))


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    message = "target cannot be written, what was there before is as it was: .*absent"
    with pytest.raises(OSError, match=message), replaced_directory(tmp_path / "target") as staging:
        (staging / "absent" / "file").write_text("1")


def test_an_error_leaves_the_old_directory(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_half_way(tmp_path / "target")
    assert contents(tmp_path / "target") == {"old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def fail_half_way(target: Path) -> None:
    with replaced_directory(target) as staging:
        (staging / "half").write_text("written")
        _ = 1 / 0


KILLED = """
import os, signal, sys
from pathlib import Path
from reward_model.atomic import checked_target, replaced_directory
with replaced_directory(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_the_old_directory(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "target")],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert contents(tmp_path / "target") == {"old": "old"}
