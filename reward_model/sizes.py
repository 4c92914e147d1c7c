"""Few sizes instead of many: a CPU's matrix products are compiled for each size that comes up, and kept.

oneDNN generates code for every number of rows, which takes 1 to 25 ms (the most with AMX) and up to megabytes, and
batches of real traffic hardly ever have as many tokens as one before. Measured at MiniLM size, batches of 4,096 tokens
of which none comes twice: with AMX 90 sequences a second as they come and 190 in few sizes; after 4,800 of them the
process has 2.4 and 0.9 GB, without AMX (after 2,900) 2.2 and 0.9 GB. Knows numbers, not tensors.
"""

#: So many sizes from one power of two to the next: fewer are met again sooner, more waste less.
STEPS = 16


def round_up(size: int) -> int:
    """The next of few sizes, at most a sixteenth above `size`; itself below 32."""
    if size < 2 * STEPS:
        return size
    step = (1 << size.bit_length() - 1) // STEPS
    return -(-size // step) * step
