"""How results of processes with a memory of their own arrive: large buffers without a copy, fds, words for what cannot."""

from __future__ import annotations

import faulthandler
import gc
import mmap
import os
import pickle
import resource
import threading
from pathlib import Path

import numpy
import pytest
from helpers import in_subprocess

import sysclone
from sysclone import Context, ResultError

COPY = Context()
MIB = 1 << 20


def mapped():
    """The mappings of memfds of ours in this process."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "/memfd:sysclone" in line]


def anonymous_kib():
    """KiB of memory that are this process's alone."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("no Anonymous: in smaps_rollup")


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_arrives_without_a_copy(order):
    """A large array is the memfd's memory, mapped: whole, writable, none of it copied until it is written to."""
    before = anonymous_kib()
    array = COPY.call(lambda: numpy.arange(8 * MIB, dtype="<i4").reshape((2048, 4096), order=order))

    grown = anonymous_kib() - before
    assert grown < 8192, "32 MiB were copied"
    assert len(mapped()) == 1
    assert array.flags.writeable
    assert array.flags["F_CONTIGUOUS" if order == "F" else "C_CONTIGUOUS"]
    assert int(array[2047, 4095]) == 8 * MIB - 1
    array[0, 0] = -5
    assert int(array[0, 0]) == -5
    del array
    assert mapped() == []


def test_a_mapping_lives_as_long_as_the_last_view():
    """A slice keeps the memory, no fd is kept, and the memory goes with the slice."""
    fds = os.listdir("/proc/self/fd")
    both = COPY.call(lambda: [numpy.ones(MIB), numpy.zeros(MIB)])
    part = both[1][5:10]
    del both
    gc.collect()

    assert os.listdir("/proc/self/fd") == fds
    assert len(mapped()) == 1
    assert part.tolist() == [0.0] * 5
    del part
    assert mapped() == []


def test_what_one_process_writes_another_does_not_see():
    """An array that came from a copied process is private: a second one that changes its copy changes it there alone."""
    array = COPY.call(lambda: numpy.zeros(MIB))
    other = COPY.call(lambda: (array.__setitem__(0, 7.0), float(array[0]))[1])

    assert (other, float(array[0])) == (7.0, 0.0)


def test_a_read_only_array_stays_so():
    """An array that could not be written to there cannot be written to here."""

    def frozen():
        array = numpy.ones(MIB)
        array.flags.writeable = False
        return array

    assert not COPY.call(frozen).flags.writeable


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_arrive_as_what_they_are(kind):
    """bytes and bytearray keep their type and their contents, and no mapping of theirs stays."""
    answer = COPY.call(lambda: kind(b"ab" * (4 * MIB)))

    assert type(answer) is kind
    assert answer == b"ab" * (4 * MIB)
    assert mapped() == []


def test_a_memoryview_can_be_returned():
    """A memoryview arrives as one, with its format and shape, over the mapped memory; a small one too."""
    large, small = COPY.call(lambda: (memoryview(numpy.ones((512, 1024))), memoryview(b"abc")[::2]))

    assert (large.format, large.shape, large[511, 1023], large.readonly) == ("d", (512, 1024), 1.0, False)
    assert small.tolist() == [97, 99]


def test_a_pickle_buffer_arrives_as_a_buffer():
    """A PickleBuffer comes out of band, as a writable buffer."""
    answer = COPY.call(lambda: pickle.PickleBuffer(bytearray(MIB)))

    assert memoryview(answer).nbytes == MIB
    assert not memoryview(answer).readonly


def test_many_small_buffers_take_one_mapping():
    """Ten thousand arrays among a few large ones come in one mapping."""
    answer = COPY.call(lambda: [numpy.full(2 * MIB if i % 5000 == 0 else 9, i) for i in range(10_000)])

    assert len(mapped()) == 1
    assert [int(one[0]) for one in answer] == list(range(10_000))


def test_what_is_made_in_the_result_buffer_is_not_copied_at_all():
    """An array in result_buffer() arrives by its memfd: the child's own writing is all the memory that is touched."""

    def make():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        array = numpy.frombuffer(sysclone.result_buffer(64 * MIB), "u1")
        array[5 * MIB] = 3
        part = array[4 * MIB : 60 * MIB]
        return part, before

    with COPY.start(make) as task:
        array, _ = task.result()

    assert (len(array), int(array[MIB]), int(array[0])) == (56 * MIB, 3, 0)
    inside = os.stat(f"/proc/self/map_files/{mapped()[0].split()[0]}").st_blocks
    assert inside * 512 < MIB, "the holes of the buffer were filled"


def test_an_fd_comes_back():
    """A Descriptor in a result is an fd of the caller's, for the same file; detach() gives it away."""

    def make():
        reading, writing = os.pipe()
        os.write(writing, b"from there")
        return [sysclone.Descriptor(reading)] * 2, sysclone.Descriptor(writing)

    (first, second), writing = COPY.call(make)
    assert first is second
    fd = first.detach()
    with pytest.raises(ValueError, match="detached"):
        first.fileno()

    assert os.read(fd, 100) == b"from there"
    assert not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(BrokenPipeError):
        os.write(writing.fileno(), b"x")


def test_more_fds_than_a_message_holds_come_back():
    """Six hundred fds arrive, each its own file."""
    answer = COPY.call(lambda: [sysclone.Descriptor(os.memfd_create(f"number {i}")) for i in range(600)])

    names = [os.readlink(f"/proc/self/fd/{one.fileno()}") for one in answer]
    assert names == [f"/memfd:number {i} (deleted)" for i in range(600)]


def test_a_socket_comes_back():
    """A connected socket in a result is one here."""
    import socket

    def make():
        ours, theirs = socket.socketpair()
        ours.sendall(b"hello")
        return theirs

    with COPY.call(make) as sock:
        assert sock.recv(10) == b"hello"


def test_an_fd_in_a_plain_pickle_is_refused():
    """Outside of tasks nothing would send the fd along: pickling a Descriptor says so."""
    with pytest.raises(pickle.PicklingError, match="not in a plain pickle"):
        pickle.dumps(sysclone.Descriptor(0))


class Holder:
    """Has attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


class Slots:
    """Has slots."""

    __slots__ = ("inner",)


def slotted(inner):
    """A Slots with something in it."""
    one = Slots()
    one.inner = inner
    return one


PATHS = {
    "an attribute": (lambda: Holder(a=1, lock=threading.Lock()), "value.lock"),
    "deep": (lambda: {"k": [1, (2, Holder(x=[threading.Lock()]))]}, "value['k'][1][1].x[0]"),
    "a slot": (lambda: [slotted(threading.Lock())], "value[0].inner"),
    "a key": (lambda: {Holder(f=lambda: 1): 2}, "the key <"),
    "an argument": (lambda: Holder(e=ValueError(threading.Lock())), "value.e (argument 0 of its __reduce__)"),
    "in a set": (lambda: {1, Holder(lock=threading.Lock())}, "(an element).lock"),
}


@pytest.mark.parametrize(("make", "path"), PATHS.values(), ids=PATHS)
def test_what_cannot_be_pickled_is_named(make, path):
    """The error names the innermost object that cannot be pickled and the path to it."""
    with pytest.raises(ResultError) as caught:
        COPY.call(make)

    assert path in str(caught.value)
    assert "_thread.lock" in str(caught.value) or "lambda" in str(caught.value)


def test_a_recursive_value_is_named_too():
    """A structure that contains itself does not lead the search in circles."""

    def make():
        ring = Holder(lock=threading.Lock())
        ring.me = [ring]
        return ring

    with pytest.raises(ResultError, match=r"value\.lock|value\.me"):
        COPY.call(make)


def test_a_value_too_deep_is_told():
    """A nesting that pickle's recursion cannot follow is a ResultError, and the process ends by itself."""

    def make():
        deep = []
        for _ in range(100_000):
            deep = [deep]
        return deep

    with COPY.start(make) as task, pytest.raises(ResultError, match=r"recursion|Stack overflow"):
        task.result()


class OnlyThere(Exception):
    """Cannot be rebuilt anywhere but where it was made."""

    made_in = os.getpid()

    def __reduce__(self):
        return rebuild, (os.getpid(),)


def rebuild(pid):
    """Refuses in other processes."""
    if os.getpid() != pid:
        raise RuntimeError("not here")
    return OnlyThere()


def test_an_exception_that_cannot_be_unpickled_here_keeps_its_traceback():
    """Where the copy fails only in the caller, the traceback is told none the less, as text and as the cause."""

    def fail():
        raise OnlyThere

    with pytest.raises(ResultError, match="RuntimeError: not here") as caught:
        COPY.call(fail)
    assert "in fail" in str(caught.value)
    assert "in fail" in str(caught.value.__cause__)


def test_notes_and_attributes_of_an_exception_arrive():
    """What was added to an exception comes with it."""

    def fail():
        error = ValueError("x")
        error.add_note("a note")
        error.number = 5
        raise error

    with pytest.raises(ValueError, match="x") as caught:
        COPY.call(fail)
    assert (caught.value.__notes__, caught.value.number) == (["a note"], 5)


def test_a_result_that_no_memory_holds_is_refused():
    """A result larger than what the machine has is a ResultError that says how much there is; nothing stays behind."""

    def make():
        # Sparse: nothing of it is touched, and pickling alone does not touch it either.
        return memoryview(mmap.mmap(-1, 1 << 42, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000))

    with pytest.raises(ResultError, match=r"could not be handed over: .*ENOMEM.*\n.*available") as caught:
        COPY.call(make)
    assert str(1 << 42)[:9] in str(caught.value)
    assert mapped() == []


def test_a_file_size_limit_is_told():
    """Where RLIMIT_FSIZE keeps the memfd small, the error is EFBIG, and a small result still arrives."""

    def make(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        return numpy.zeros(size, "u1")

    with pytest.raises(ResultError, match="EFBIG"):
        COPY.call(make, 8 * MIB)
    assert len(COPY.call(make, 5)) == 5


def test_no_memfd_to_be_had_is_told():
    """Without room for an fd the large result cannot be handed over: the error says so."""

    def make():
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        return numpy.zeros(MIB)

    with pytest.raises(ResultError, match=r"memfd_create.*EMFILE"):
        COPY.call(make)


# --- progress


@pytest.mark.parametrize("context", [Context.light(), COPY], ids=["light", "copied"])
def test_progress_is_seen_while_it_runs(context):
    """What the function says is read while it runs and after its end; before, there is none."""
    go_on, tell = os.pipe()
    ready, say = os.pipe()

    def work():
        os.read(go_on, 1)
        sysclone.progress(1, 3, "first")
        os.write(say, b"x")
        os.read(go_on, 1)
        sysclone.progress(2.5)

    with context.start(work) as task:
        assert task.progress is None
        os.write(tell, b"x")
        os.read(ready, 1)
        seen = task.progress
        os.write(tell, b"x")
        task.result()
        last = task.progress
    for fd in (go_on, tell, ready, say):
        os.close(fd)

    assert (seen.done, seen.total, seen.text) == (1.0, 3.0, "first")
    assert (last.done, last.total, last.text) == (2.5, None, "")


def test_progress_is_never_torn():
    """Done and text always belong together, however quickly they change."""

    def work():
        for i in range(20_000):
            sysclone.progress(i, None, f"{i} " * 20)

    with COPY.start(work) as task:
        while not task.done():
            seen = task.progress
            assert seen is None or seen.text.split() == [f"{seen.done:g}" if seen.done < 1e5 else ""] * 20


def test_a_negative_total_is_refused():
    """A total below 0 is a mistake."""
    with pytest.raises(ValueError, match="total"):
        sysclone.progress(1, -1)


# --- what is left out of the copy


def test_an_excluded_buffer_is_not_there():
    """The buffer's pages are unmapped in the child and as before in the caller, also for its later forks."""
    buffer = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer[: 16 * MIB : 4096] = b"x" * 4096
    exclude = Context(memory_exclude=[buffer])

    with pytest.raises(sysclone.TaskKilled) as caught:
        exclude.call(lambda: (faulthandler.disable(), buffer[5 * MIB]))
    assert caught.value.signal == 11
    assert exclude.call(lambda: 5) == 5
    assert COPY.call(lambda: bytes(buffer[4096:4097])) == b"x"
    buffer.close()


def test_only_whole_pages_of_a_buffer_are_excluded():
    """What shares its page with others is copied: the first and last bytes of an unaligned buffer are there."""
    whole = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole[:] = b"y" * len(whole)
    part = memoryview(whole)[100:-100]

    edges = Context(memory_exclude=[part]).call(lambda: bytes([whole[0], part[0], part[-1], whole[-1]]))

    assert edges == b"yyyy"
    part.release()
    whole.close()


def test_a_wiped_buffer_is_zero():
    """The child finds zeroes, the caller keeps what it has, and a later copy sees it again."""
    buffer = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer[:] = b"z" * MIB

    assert Context(memory_wipe=[buffer]).call(lambda: buffer[:].count(b"z")) == 0
    assert COPY.call(lambda: buffer[9]) == buffer[9] == ord("z")
    buffer.close()


def test_wiping_what_cannot_be_is_told():
    """Shared memory cannot be wiped: madvise's EINVAL is told by name, and what was advised before is undone."""
    private = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    private[0] = 5
    shared = mmap.mmap(-1, MIB)

    with pytest.raises(sysclone.CloneError, match="madvise: EINVAL"):
        Context(memory_exclude=[private], memory_wipe=[shared]).call(int)
    assert COPY.call(lambda: private[0]) == 5
    private.close()
    shared.close()


WRONG = {
    "one buffer": (bytearray(9000), "needs a list of buffers"),
    "no buffer": ([5], "int is no contiguous buffer"),
    "not contiguous": ([memoryview(bytearray(90_000))[::2]], "no contiguous buffer"),
    "too small": ([bytearray(100)], "no whole page"),
}


@pytest.mark.parametrize("field", ["memory_exclude", "memory_wipe"])
@pytest.mark.parametrize(("value", "words"), WRONG.values(), ids=WRONG)
def test_wrong_buffers_are_refused(field, value, words):
    """What has no whole page of its own is refused when the Context is made, at its field."""
    with pytest.raises(sysclone.ContextError, match=words) as caught:
        Context(**{field: value})
    assert caught.value.field == field


def test_buffers_are_compared_by_identity():
    """Two Contexts with the same buffer are equal, with equal buffers they are not, and neither can be pickled."""
    one, two = bytearray(20_000), bytearray(20_000)
    context = Context(memory_exclude=[one])

    assert context == Context(memory_exclude=[one]) != Context(memory_exclude=[two])
    assert hash(context) == hash(Context(memory_exclude=[one]))
    assert "<bytearray of 20000 bytes>" in repr(context)
    with pytest.raises(sysclone.ContextError, match="cannot be pickled"):
        pickle.dumps(context)


@pytest.mark.parametrize("field", ["memory_exclude", "memory_wipe"])
def test_nothing_is_left_out_where_nothing_is_copied(field):
    """Light processes and programs copy no memory: asking is refused."""
    context = Context(**{field: [bytearray(20_000)]})
    with pytest.raises(sysclone.ContextError, match="no memory is copied"):
        sysclone.run(["true"], context=context)
    with pytest.raises(sysclone.ContextError, match="no memory is copied"):
        context.replace(share=sysclone.Share.VM).call(int)


def test_a_task_of_another_process_closes_no_fd_here():
    """A Task that a light process has made and dropped closes fds in that one's own table alone."""
    in_subprocess("""
        import gc, os, sysclone
        kept = []
        def make():
            kept.append(sysclone.Context().start(int))
            kept[0].wait()
        sysclone.call(make)
        before = [os.dup(0) for _ in range(30)]
        kept.clear()
        gc.collect()
        for fd in before:
            os.fstat(fd)
    """)
