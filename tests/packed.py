"""A packed batch read back, sequence by sequence."""

from reward_model.packing import PackedBatch


def rows_of(batch: PackedBatch) -> list[list[int]]:
    """For each sequence the rows of its tokens, in order."""
    bounds = batch.cu_seqlens.tolist()
    parents = [-1] * (len(bounds) - 1) if batch.parents is None else batch.parents.tolist()
    found: list[list[int]] = []
    for end in batch.ends.tolist():
        rows: list[int] = []
        run = end
        while run >= 0:
            rows = [*range(bounds[run], bounds[run + 1]), *rows]
            run = parents[run]
        found.append(rows)
    return found
