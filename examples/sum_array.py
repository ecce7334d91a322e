"""The sum of an array, by threads, by processes and by light processes: one call makes them all.

Each worker sums its part. A thread has its creator's pid and memory; a process has neither, so its sum comes back by
pickle; a light process has the memory and a pid of its own. Under strace each row is one sort of line:

    strace -f -e trace=clone,clone3 python examples/sum_array.py 2

Output:

    threads          sum 499999500000, in 1 process
    processes        sum 499999500000, in 2 processes
    light processes  sum 499999500000, in 2 processes
"""

import os
import sys
from itertools import pairwise

from sysclone import Context

ARRAY = list(range(1_000_000))


def sum_part(low: int, high: int) -> tuple[int, int]:
    return sum(ARRAY[low:high]), os.getpid()


def sum_array(context: Context, workers: int) -> tuple[int, int]:
    """The sum, and in how many processes it was made."""
    cuts = [len(ARRAY) * i // workers for i in range(workers + 1)]
    tasks = [context.start(sum_part, low, high) for low, high in pairwise(cuts)]
    sums, pids = zip(*(task.result() for task in tasks), strict=True)
    return sum(sums), len(set(pids))


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    contexts = {"threads": Context.thread(), "processes": Context.fork(), "light processes": Context.light()}
    for name, context in contexts.items():
        total, processes = sum_array(context, workers)
        print(f"{name:16} sum {total}, in {processes} process{'es' * (processes != 1)}")


if __name__ == "__main__":
    main()
