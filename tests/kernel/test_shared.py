"""sysclone.shared: data that every kind of task reads without a copy, and that is gone with its last handle."""

from __future__ import annotations

import fcntl
import gc
import mmap
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy
import pytest
from helpers import TESTS, in_subprocess

import sysclone
from sysclone import Context

MIB = 1 << 20
CONTEXTS = pytest.mark.parametrize("context", [Context.light(), Context()], ids=["light", "copied"])


def held():
    """What of shared data this process has open or mapped."""
    here = Path("/proc/self/fd")
    fds = [os.readlink(here / fd) for fd in os.listdir(here) if os.path.lexists(here / fd)]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [one for one in (*fds, *maps) if "memfd:sysclone-shared" in one]


KINDS = {
    "bytes": b"some bytes",
    "empty": b"",
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(numpy.arange(12, dtype="i").reshape(3, 4)),
    "a part of one": memoryview(b"abcdef")[::2],
    "array": numpy.arange(1000, dtype="<f4"),
    "array of no size": numpy.empty((0, 3)),
    "Fortran": numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
    "not contiguous": numpy.arange(100)[::7],
    "structured": numpy.zeros(3, [("a", "i4"), ("b", "f8")]),
    "big endian": numpy.arange(5, dtype=">u2"),
    "no dimension": numpy.array(5.5),
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_data_is_what_it_was(data):
    """Whatever exports a buffer reads as it was, in shape and type, read-only."""
    wanted = numpy.asarray(memoryview(data)) if isinstance(data, (bytes, bytearray)) else numpy.asarray(data)
    with sysclone.shared(data) as one:
        array = one.array()
        assert numpy.array_equal(array, wanted)
        assert (array.shape, array.dtype, one.nbytes) == (wanted.shape, wanted.dtype, wanted.nbytes)
        assert not array.flags.writeable
        assert one.view().readonly
        assert bytes(one.view()) == wanted.tobytes("A")
        del array


@CONTEXTS
def test_a_task_reads_it_without_a_copy(context):
    """In a task of either kind the array is the caller's memory: reading makes no page of its own."""
    with sysclone.shared(numpy.ones(4 * MIB)) as one:

        def anonymous():
            return int(Path("/proc/self/smaps_rollup").read_text().split("Anonymous:")[1].split()[0])

        def look():
            before = anonymous()
            total = float(one.array()[::512].sum())
            return total, anonymous() - before

        total, grown = context.call(look)
    assert total == 4 * MIB / 512
    assert grown < 8192, "32 MiB were copied"


def test_nobody_writes_to_it():
    """The memfd is sealed: no write, no change of size, no writable mapping, by whoever has it."""
    with sysclone.shared(b"x" * 5000) as one:
        fd = one.fileno()
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 15
        for act in (lambda: os.pwrite(fd, b"y", 0), lambda: os.ftruncate(fd, 1), lambda: os.ftruncate(fd, 1 << 20)):
            with pytest.raises(PermissionError):
                act()
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 5000)


def test_it_goes_with_the_last_that_holds_it():
    """The fd goes with the handle, the memory with the last view."""
    one = sysclone.shared(numpy.arange(MIB))
    part = one.array()[5:8]
    assert len(held()) == 2
    one.close()
    assert repr(one) == "<Shared: closed>"
    with pytest.raises(ValueError, match="closed"):
        one.view()
    del one
    gc.collect()
    assert part.tolist() == [5, 6, 7]
    assert len(held()) == 1
    del part
    assert held() == []


def test_a_handle_that_is_dropped_is_closed():
    """Without close() the end of the object is the end of the data."""
    sysclone.shared(b"x" * 100_000)
    gc.collect()
    assert held() == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_gets_it_as_an_argument(method, tmp_path):
    """A process of each start method opens the caller's memfd: same inode, no copy."""
    in_subprocess(f"""
        import multiprocessing, os, sys
        import sysclone
        sys.path.insert(0, {str(TESTS)!r})
        import shared_calls

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            one = sysclone.shared(b"abc" * 50_000)
            ours, theirs = context.Pipe()
            process = context.Process(target=shared_calls.tell, args=(one, theirs))
            process.start()
            assert ours.recv() == (os.fstat(one.fileno()).st_ino, b"abc", True), "another file"
            process.join()
            assert process.exitcode == 0
            with context.Pool(1) as pool:
                assert pool.apply(shared_calls.first, (one,)) == (os.fstat(one.fileno()).st_ino, b"abc")
    """)


def first(one):
    """The inode and the first bytes."""
    return os.fstat(one.fileno()).st_ino, bytes(one.view()[:3])


def test_a_pool_of_processes_gets_it_by_name():
    """Through a queue, where no fd can go along, the handle is opened by /proc."""
    with (
        sysclone.shared(b"abcdef") as one,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
    ):
        assert pool.submit(first, one).result() == (os.fstat(one.fileno()).st_ino, b"abc")


def test_a_second_arrival_is_the_same_handle():
    """What is unpickled where it is open already is that handle."""
    with sysclone.shared(b"abc") as one:
        assert pickle.loads(pickle.dumps(one)) is one


def test_what_is_gone_is_told():
    """A handle that was let go of before another process opened its pickle is an error that says so, never other data."""
    one = sysclone.shared(b"secret")
    data, number = pickle.dumps(one), one.fileno()
    one.close()
    del one
    with pytest.raises(sysclone.SyscloneError, match="is gone"):
        pickle.loads(data)
    with open("/dev/null", "rb") as other:
        if other.fileno() != number:
            os.dup2(other.fileno(), number)
        with pytest.raises(sysclone.SyscloneError, match="is gone"):
            pickle.loads(data)
        if other.fileno() != number:
            os.close(number)


def test_a_copied_process_hands_one_back():
    """A Shared that a task makes comes back by its memfd; one that was given to it comes back as the very handle."""
    with sysclone.shared(b"given") as given:
        made, back = Context().call(lambda: (sysclone.shared(numpy.arange(MIB)), given))
        assert back is given
        assert int(made.array()[-1]) == MIB - 1
        made.close()


def test_an_array_of_one_comes_back_without_a_copy():
    """A part of a shared array in a result is that memfd, and not a copy of its bytes."""
    with sysclone.shared(numpy.arange(4 * MIB, dtype="u1")) as one:
        part = Context().call(lambda: one.array()[MIB : 3 * MIB])
        private = [line.split() for line in held() if "rw-p" in line]
        assert [int(words[4]) for words in private] == [os.fstat(one.fileno()).st_ino]
        assert (len(part), int(part[5]), part.flags.writeable) == (2 * MIB, 5, False)
        del part


def test_a_light_process_with_an_older_table_reads_it():
    """A handle that was made after a light process began is read there by the shared memory, and its fd is told as absent."""
    in_subprocess("""
        import os, sysclone
        box, (go_on, tell) = [], os.pipe()
        def work():
            os.read(go_on, 1)
            try:
                box[0].fileno()
            except ValueError as error:
                assert "not in this one's table" in str(error), error
            else:
                raise SystemExit("it has the fd")
            return bytes(box[0].view())
        task = sysclone.start(work)
        box.append(sysclone.shared(b"late"))
        os.write(tell, b"x")
        assert task.result() == b"late"
        task.close()
    """)


def test_a_handle_that_dies_in_a_light_process_is_closed_here():
    """The fd of a handle whose last reference is dropped in a light process is closed by the process that owns it."""
    in_subprocess("""
        import os, sysclone
        box = [sysclone.shared(b"one")]
        number = box[0].fileno()
        sysclone.call(box.clear)
        sysclone.shared(b"two").close()
        try:
            print(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
        else:
            raise SystemExit("still open")
    """)


@pytest.mark.parametrize("data", [5, "text", numpy.array([object()])], ids=["int", "str", "objects"])
def test_what_has_no_bytes_is_refused(data):
    """What exports no plain buffer is a TypeError."""
    with pytest.raises(TypeError):
        sysclone.shared(data)


def test_more_than_there_is_memory_is_refused():
    """Data beyond the machine's memory is refused with how much there is, before anything is written."""
    with mmap.mmap(-1, 1 << 42, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000) as sparse:
        with pytest.raises(sysclone.CloneError, match="ENOMEM"):
            sysclone.shared(sparse)
        with pytest.raises(sysclone.CloneError, match="ENOMEM"):
            sysclone.result_buffer(1 << 42)
    assert held() == []


def test_numpy_takes_it_as_an_array():
    """numpy.asarray of a handle is its array, without a copy; another dtype is one, and refused where none may be made."""
    with sysclone.shared(numpy.arange(9, dtype="i8")) as one:
        array = numpy.asarray(one)
        assert not array.flags.owndata
        assert numpy.asarray(one, dtype="f4").dtype == "f4"
        with pytest.raises(ValueError, match="copy"):
            one.__array__("f4", copy=False)
        assert one.__array__(copy=True).flags.owndata
        assert len(one) == 9
        del array
