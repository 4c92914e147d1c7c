"""Preference data sets: read whole, with an account of every row that could not be used.

Nothing is dropped silently: what is left out is counted by reason, with the lines to look at. Knows pairs and files,
not tokens or models.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.documents import write_document
from training.fingerprint import fingerprint
from training.pairs import BadRow, PreferencePair
from training.rankings import to_pairs
from training.rows import DataError, read_rows

#: What can be said of a row that is used; see `training.repeats`, `training.leaks` and `training.likeness`.
Remark = Literal["duplicate", "contradiction", "in_evaluation", "near_identical"]

#: How many lines of each kind of row are named.
_LINES_SHOWN = 10


class NoPairs(DataError):
    """Not one row of a data set can be used; the message says why."""


@dataclass(slots=True)
class Kind:
    """Rows of which the same is to be said.

    Attributes:
        count: how many.
        lines: where the first of them stand, counted from 1.
        example: what there is to say of the first.
    """

    count: int
    lines: list[int]
    example: str


@dataclass(slots=True)
class RowReport:
    """Which rows of a data set were not used, and why, and which are worth a look; filled while it is read.

    Attributes:
        rows: how many rows were looked at, good and bad.
        reasons: the bad ones by reason.
        remarks: those that are used all the same, by what there is to say of them; a row can be in several.
    """

    rows: int = 0
    reasons: dict[str, Kind] = field(default_factory=dict)
    remarks: dict[str, Kind] = field(default_factory=dict)

    def add(self, line: int, error: BadRow) -> None:
        """Counts one bad row."""
        _count(self.reasons, error.reason, line, str(error))

    def remark(self, line: int, remark: Remark, detail: str) -> None:
        """Counts one row that is used and worth a look."""
        _count(self.remarks, remark, line, detail)

    @property
    def counts(self) -> dict[str, int]:
        """Bad rows by reason."""
        return {reason: kind.count for reason, kind in self.reasons.items()}

    @property
    def rejected(self) -> int:
        """All bad rows."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document."""
        reasons, remarks = (
            {name: {"count": k.count, "first_lines": list(k.lines), "example": k.example} for name, k in kinds.items()}
            for kinds in (self.reasons, self.remarks)
        )
        return {"rows": self.rows, "rejected": self.rejected, "reasons": reasons, "remarks": remarks}

    def table(self) -> str:
        """The report as plain text: a line of totals, then one line per reason, the most frequent first."""
        lines = [f"rows: {self.rows:,}, not used: {self.rejected:,}", *_table(self.reasons)]
        if self.remarks:
            lines += ["used, but worth a look:", *_table(self.remarks)]
        return "\n".join(lines)

    @property
    def foremost(self) -> str:
        """What is wrong with the first bad row of the most frequent kind."""
        return max(self.reasons.values(), key=lambda kind: kind.count).example

    def write(self, path: Path) -> None:
        """Writes the report as JSON, in one step."""
        write_document(self.to_json(), path)


def _count(kinds: dict[str, Kind], name: str, line: int, detail: str) -> None:
    kind = kinds.setdefault(name, Kind(0, [], detail))
    kind.count += 1
    if len(kind.lines) < _LINES_SHOWN:
        kind.lines.append(line)


def _table(kinds: dict[str, Kind]) -> Iterator[str]:
    for name, kind in sorted(kinds.items(), key=lambda item: -item[1].count):
        where = ", ".join(map(str, kind.lines)) + (", ..." if kind.count > len(kind.lines) else "")
        yield f"  {name:<17}{kind.count:>9,}  at {where}: {kind.example}"


@dataclass(frozen=True, slots=True)
class Preferences:
    """A preference data set.

    Attributes:
        pairs: in the order of the file.
        rejected_rows: what of the file is not among them.
    """

    pairs: tuple[PreferencePair, ...]
    rejected_rows: RowReport

    @property
    def fingerprint(self) -> str:
        """Identity of the pairs, the same in any file format."""
        return fingerprint(self.pairs)


def read_preferences(name: str, *, limit: int | None = None) -> Preferences:
    """Reads a data set.

    Args:
        name: a .jsonl, .jsonl.gz or .parquet file or a hub name; see `training.rows.read_rows`.
        limit: stop after so many good pairs.

    Raises:
        NoPairs: no row could be used.
        DataError: it cannot be read at all.
    """
    report = RowReport()
    return Preferences(tuple(read_pairs(name, report, limit=limit)), report)


def read_pairs(name: str, report: RowReport, *, limit: int | None = None) -> Iterator[PreferencePair]:
    """The same one by one; what cannot be used is added to `report`, which is complete at the end.

    A ranking is never divided, so that there may be a few more pairs than `limit`.
    """
    good = 0
    for line, row in read_rows(name):
        if limit is not None and good >= limit:
            return
        report.rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            pairs = to_pairs(row, line)
        except BadRow as error:
            report.add(line, error)
        else:
            good += len(pairs)
            yield from pairs
    if not good:
        raise none_usable(name, report)


def none_usable(name: str, report: RowReport) -> NoPairs:
    """The error for a data set without one good row."""
    if not report.rows:
        return NoPairs(f"{name}: there are no rows")
    return NoPairs(f"{name}: no row can be used: {report.foremost}\n{report.table()}")
