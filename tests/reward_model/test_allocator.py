"""Memory that was freed is used again without asking the kernel."""

import platform
import subprocess
import sys

import pytest

#: Takes and frees 16 MiB over and over; prints the pages that the kernel had to clear for it.
PROGRAM = """
import ctypes, resource
from reward_model.allocator import keep_freed_memory
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = lambda: [ctypes.memset(one, 1, 1 << 24) for one in [libc.malloc(1 << 24) for _ in range(4)]]
def again():
    for one in blocks():
        libc.free(one)
again()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    again()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    program = PROGRAM.format(call=call)
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return int(output.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_blocks_come_back_without_page_faults() -> None:
    assert faults("assert keep_freed_memory()") < 1000 < faults("")
