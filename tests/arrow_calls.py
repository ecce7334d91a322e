"""What tests/kernel/test_arrow.py looks at, each in a Python of its own: pyarrow's allocator keeps a thread for good."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pyarrow
import pyarrow.compute
from executor_calls import FRESH
from helpers import SECONDS

import sysclone
from sysclone import Context, Executor, Zygote

MIB = 1 << 20
ROWS = 2 * MIB


def anonymous_kib():
    """KiB of memory that are this process's alone."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("no Anonymous: in smaps_rollup")


def mapped():
    """The mappings of memfds of ours in this process."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "/memfd:sysclone" in line]


def table(rows):
    """Numbers with gaps and without, and texts, in two chunks."""
    numbers = pyarrow.array(numpy.arange(rows, dtype="i8"))
    texts = pyarrow.array([f"text {i % 10}" for i in range(1000)])
    one = pyarrow.table(
        {"number": numbers, "half": pyarrow.array(numpy.arange(rows) / 2, mask=numpy.arange(rows) % 7 == 0)}
    )
    return pyarrow.concat_tables([one, one.slice(rows // 2)]), texts


def total(one):
    """The sum of a table's column, and where its memory is."""
    named = "memfd:sysclone" in Path("/proc/self/maps").read_text()
    return pyarrow.compute.sum(one.column("number")).as_py(), one.column("half").null_count, named


EXPECTED = sum(range(ROWS)) + sum(range(ROWS // 2, ROWS))


def check(one):
    """That a table is the one that was made, and lies in what was mapped."""
    assert pyarrow.compute.sum(one.column("number")).as_py() == EXPECTED
    assert one.column("half").null_count == sum(i % 7 == 0 for i in range(ROWS)) + sum(
        i % 7 == 0 for i in range(ROWS // 2, ROWS)
    )


def a_table_comes_back_without_a_copy(way):
    """A table of 50 MB is the mapped memory: next to nothing of it is this process's own; it goes with the table."""
    before = anonymous_kib()
    if way == "copied":
        answer, _ = Context().call(table, ROWS)
    else:
        keywords = {"kind": "copied"} if way == "warm" else FRESH
        with Executor(1, tasks_per_worker=None, **keywords) as executor:
            answer, _ = executor.submit(table, ROWS).result(SECONDS)
    grown = anonymous_kib() - before

    assert answer.nbytes > 45 * MIB
    assert grown < 8 * 1024
    assert len(mapped()) == 1
    check(answer)
    del answer
    assert mapped() == []


def a_table_goes_to_a_fresh_process_out_of_band():
    """As an argument too: it lies in a memfd there, and nothing of it stays mapped here."""
    one, _ = table(ROWS)
    with Zygote() as zygote:
        answer = zygote.call(total, one)
    assert answer[0] == EXPECTED
    assert answer[2]
    assert mapped() == []


def a_buffer_and_a_record_batch():
    """An Arrow buffer and a batch come back as what they are, a small one in the pickle, and fds do not pile up."""
    fds = len(os.listdir("/proc/self/fd"))
    buffer, batch, small = Context().call(
        lambda: (
            pyarrow.py_buffer(numpy.ones(MIB)),
            pyarrow.record_batch({"n": numpy.arange(MIB)}),
            pyarrow.array([1, None, 3]),
        )
    )

    assert (buffer.size, batch.num_rows, small.to_pylist()) == (8 * MIB, MIB, [1, None, 3])
    assert numpy.frombuffer(buffer).sum() == MIB
    assert len(os.listdir("/proc/self/fd")) == fds


def arrow_reads_shared_data():
    """A Shared is a buffer to Arrow, and a table over it is the very memory in a task."""
    with sysclone.shared(numpy.arange(MIB)) as one:
        array = pyarrow.Array.from_buffers(pyarrow.int64(), MIB, [None, pyarrow.py_buffer(one.array())])
        last = Context().call(lambda: (array[MIB - 1].as_py(), "memfd:sysclone" in Path("/proc/self/maps").read_text()))
        assert last == (MIB - 1, True)
        array = None
