"""All benchmarks by name. Knows nothing of what is in them."""

from collections.abc import Mapping
from typing import Any, Final

from training.benchmarks.best_of_n import BEST_OF_N
from training.benchmarks.items import Benchmark
from training.benchmarks.judgebench import JUDGEBENCH
from training.benchmarks.rewardbench import REWARDBENCH
from training.benchmarks.rewardbench2 import REWARDBENCH2
from training.benchmarks.rm_bench import RM_BENCH

BENCHMARKS: Final[Mapping[str, Benchmark[Any]]] = {
    one.name: one for one in (REWARDBENCH, REWARDBENCH2, RM_BENCH, JUDGEBENCH, BEST_OF_N)
}
