"""Makes the environments that the peers run in.

    python -m benchmarks.peers install [--environments DIR] [NAME ...]

Each is made once and takes about 1.4 GB; pip's own variables and configuration decide where packages come from.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".envs"
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.txt")))


def install(name: str, environments: Path) -> Path:
    """Makes the environment `name` with what `name`.txt lists; leaves one alone that is there and whole.

    Raises:
        subprocess.CalledProcessError: pip failed; what it said is on stderr.
    """
    environment, requirements = environments / name, HERE / f"{name}.txt"
    installed = environment / "requirements.txt"
    if installed.exists() and installed.read_text() == requirements.read_text():
        return environment
    venv.create(environment, clear=True, with_pip=True)
    pip = (str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    subprocess.run([*pip, "--requirement", str(requirements)], check=True)  # noqa: S603 - our own file
    installed.write_text(requirements.read_text())
    return environment


def main(argv: list[str]) -> None:
    """Installs the environments named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__, allow_abbrev=False)
    parser.add_argument("command", choices=["install"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where to put them")
    flags = parser.parse_args(argv)
    if unknown := sorted(set(flags.names) - set(NAMES)):
        parser.error(f"unknown environment {unknown[0]}")
    for name in flags.names or NAMES:
        print(f"{name}: {install(name, flags.environments)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
