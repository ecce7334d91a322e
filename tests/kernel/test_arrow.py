"""Apache Arrow: tables and buffers cross without a copy on arrival, by every way that data crosses."""

from __future__ import annotations

import pytest
from features import requires
from helpers import in_subprocess

pytestmark = requires("arrow")


def look(name, *arguments):
    """Run one of arrow_calls' functions in a Python of its own, where pyarrow's own threads were begun before."""
    in_subprocess(f"import arrow_calls; arrow_calls.table(100); arrow_calls.{name}{arguments!r}")


@pytest.mark.parametrize("way", ["copied", "warm", "fresh"])
def test_a_table_comes_back_without_a_copy(way):
    """A table of 50 MB is the mapped memory: next to nothing of it is this process's own; it goes with the table."""
    look("a_table_comes_back_without_a_copy", way)


def test_a_table_goes_to_a_fresh_process_out_of_band():
    """As an argument too: it lies in a memfd there, and nothing of it stays mapped here."""
    look("a_table_goes_to_a_fresh_process_out_of_band")


def test_a_buffer_and_a_record_batch():
    """An Arrow buffer and a batch come back as what they are, a small one in the pickle, and fds do not pile up."""
    look("a_buffer_and_a_record_batch")


def test_arrow_reads_shared_data():
    """A Shared is a buffer to Arrow, and a table over it is the very memory in a task."""
    look("arrow_reads_shared_data")
