"""Training rows whose prompt is also asked in the evaluation set: what is measured there would be memory.

Knows prompts and line numbers, not files.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from training.data import RowReport
from training.examples import prompt_digest
from training.pairs import IN_EVALUATION, BadRow
from training.rowwise import R, by_row

_DETAIL = "its prompt is also in the evaluation set"


def without_leaks(rows: Iterable[R], evaluated: AbstractSet[bytes], report: RowReport, *, keep: bool) -> Iterator[R]:
    """Leaves out what has a prompt of the evaluation set, and counts it.

    Args:
        rows: pairs or rated responses, those of one line side by side.
        evaluated: digests of the evaluation set's prompts; two prompts are the same if all their turns are.
        report: where they are counted.
        keep: count them only.
    """
    if not evaluated:
        yield from rows
        return
    for line, members in by_row(rows):
        if prompt_digest(members[0].prompt) not in evaluated:
            yield from members
        elif keep:
            report.remark(line, IN_EVALUATION, _DETAIL)
            yield from members
        else:
            report.add(line, BadRow(IN_EVALUATION, _DETAIL))
