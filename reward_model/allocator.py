"""What is kept from one batch to the next: freed memory, and some of the kernels that oneDNN makes for each shape.

Every batch frees and takes the same tens of megabytes. By default glibc gives large blocks back at once, and gets pages
for them that the kernel must clear: attention over 512 tokens took twice as long by that. Knows no models.
"""

import ctypes
import os
import sys

#: mallopt's numbers (malloc.h): blocks from so many bytes on are mapped one by one; more free bytes are given back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
#: The most that glibc takes for the first.
_LARGEST = 32 * 2**20
_KEPT = 2**30
#: By default oneDNN keeps 1,024 kernels. Pairs a second of a small causal model with AMX: 4.6 with 128, 8.3 with 512,
#: 9.0 with 1,024; gigabytes after 20 steps 2.2, 2.6 and 2.9, after 70 (the last two) 3.2 and 3.6.
_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")


def keep_fewer_kernels() -> None:
    """In training, where there are more shapes than in scoring, half as many are nearly as fast and take less memory.

    Heeded only before the first matrix product of the process, and where the environment does not say otherwise.
    """
    os.environ.setdefault(*_KERNELS)


def keep_freed_memory() -> bool:
    """From now on the process keeps up to a gigabyte that it has freed; false where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
