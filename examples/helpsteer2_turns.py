"""Takes the prompts of HelpSteer2 apart into turns, and writes the rows as JSON lines with everything else as it was.

    python examples/helpsteer2_turns.py --dataset_name nvidia/HelpSteer2:validation --output_file validation.jsonl

A prompt of several turns comes as one string, in which lines `<extra_id_1>Assistant` and `<extra_id_1>User` say whose
turn it is. Read as it is, that would be one question with odd marks in it.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.rows import DataError, read_rows

_MARK = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def turns(prompt: str) -> list[dict[str, str]]:
    """The messages of a prompt: the user's, and by turns the assistant's and the user's."""
    first, *rest = _MARK.split(prompt)
    spoken = zip(rest[::2], rest[1::2], strict=True)
    return [{"role": "user", "content": first}, *({"role": who.lower(), "content": said} for who, said in spoken)]


def main() -> int:
    """Reads, converts and writes; 1 where the data set cannot be read or a row has no prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="a file or a hub name, name:split for another split")
    parser.add_argument("--output_file", required=True, type=Path, help="where the JSON lines go")
    flags = parser.parse_args()
    try:
        rows = [_converted(row, number) for number, row in read_rows(flags.dataset_name)]
    except DataError as error:
        sys.stderr.write(f"helpsteer2_turns: {error}\n")
        return 1
    flags.output_file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    flags.output_file.write_text(lines, encoding="utf-8")
    several = sum(len(row["prompt"]) > 1 for row in rows)
    print(f"{flags.output_file}: {len(rows):,} rows, {several:,} with prompts of several turns")
    return 0


def _converted(row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("prompt"), str):
        msg = f"row {number} has no prompt that is a string: {row}"
        raise DataError(msg)
    return {**row, "prompt": turns(row["prompt"])}


if __name__ == "__main__":
    sys.exit(main())
