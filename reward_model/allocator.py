"""What is kept from one batch to the next: freed memory.

Every batch frees and takes the same tens of megabytes. By default glibc gives large blocks back at once, and gets pages
for them that the kernel must clear: attention over 512 tokens took twice as long by that. Knows no models.
"""

import ctypes
import sys

#: mallopt's numbers (malloc.h): blocks from so many bytes on are mapped one by one; more free bytes are given back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
#: The most that glibc takes for the first.
_LARGEST = 32 * 2**20
_KEPT = 2**30


def keep_freed_memory() -> bool:
    """From now on the process keeps up to a gigabyte that it has freed; false where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
