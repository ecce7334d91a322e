"""What a light process that died, or was stopped, leaves in order: frames, event loops, threads, helpers, fds, signals."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time

import pytest
from features import requires
from helpers import in_subprocess

import sysclone
from sysclone import Context, Share, TaskExited, TaskKilled, TaskTimeout, _core

LIGHT = Context(share=Share.VM)


def test_frames_of_a_dead_function_can_be_looked_at():
    """A traceback and a frame that outlive the function that died hold its variables, whatever runs afterwards."""
    in_subprocess("""
        import gc, os, sys, traceback, sysclone
        kept = []

        def inner(value):
            try:
                raise ValueError(value)
            except ValueError as error:
                kept.append(error)
                kept.append(sys._getframe())
                os._exit(3)

        def outer():
            inner(["the value"])

        def deep(n):
            return n and deep(n - 1)

        for _ in range(20):
            try:
                sysclone.call(outer)
            except sysclone.TaskExited:
                pass
            deep(500)
            gc.collect()
        for error, frame in zip(kept[::2], kept[1::2]):
            assert "inner" in "".join(traceback.format_exception(error))
            assert frame.f_locals["value"] == ["the value"]
    """)


def test_a_function_is_stopped_while_a_frame_is_half_made():
    """Frames of a function that C code calls all the time are looked at between any two instructions, and nothing faults."""
    in_subprocess("""
        from sysclone import Context, Share, TaskTimeout

        def pushes():
            while True:
                list(map(lambda x: x, range(50)))

        limits = [Context(share=Share.VM, timeout=n * 1e-4) for n in range(3, 11)]
        for n in range(800):
            try:
                limits[n % 8].call(pushes)
            except TaskTimeout as error:
                assert not error.still_running
            else:
                raise SystemExit("it was not stopped")
    """)


def test_a_kept_frame_of_a_dead_function_is_freed():
    """What such a frame holds is freed with it."""
    in_subprocess("""
        import gc, os, sys, weakref, sysclone
        kept = []

        class Value:
            pass

        def dies(value):
            kept.append((sys._getframe(), weakref.ref(value)))
            os._exit(3)

        for _ in range(20):
            try:
                sysclone.call(lambda: dies(Value()))
            except sysclone.TaskExited:
                pass
        gc.collect()
        assert all(isinstance(frame.f_locals["value"], Value) for frame, reference in kept)
        references = [reference for frame, reference in kept]
        kept.clear()
        gc.collect()
        assert not any(reference() for reference in references)
    """)


def test_an_event_loop_that_was_killed_is_forgotten():
    """Where a function was ended in an event loop, the next one may run a loop on the same thread."""

    async def dies():
        os._exit(3)

    async def answers():
        return 5

    with pytest.raises(TaskExited):
        sysclone.call(lambda: asyncio.run(dies()))
    assert asyncio.run(answers()) == 5
    with pytest.raises(TaskTimeout):
        LIGHT.replace(timeout=0.2).call(lambda: asyncio.run(asyncio.sleep(30)))
    assert LIGHT.replace(timeout=20).call(lambda: asyncio.run(answers())) == 5


def test_a_running_loop_below_the_call_stays():
    """A call from within a coroutine whose function dies leaves the coroutine's own loop and task running."""

    async def calls():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        with pytest.raises(TaskExited):
            sysclone.call(os._exit, 3)
        await asyncio.sleep(0)
        return asyncio.get_running_loop() is loop and asyncio.current_task() is task

    assert asyncio.run(calls())


def test_helpers_that_died_with_their_process_are_accounted_for():
    """A task that a light process started is over when that process dies, and interpreter exit does not wait for it."""
    in_subprocess("""
        import os, time, sysclone
        box = []

        def starts():
            box.append(sysclone.start(time.sleep, 60))
            os._exit(3)

        try:
            sysclone.call(starts)
        except sysclone.TaskExited:
            pass
        assert not box[0].wait(10).known
    """)


def test_threads_that_died_with_their_process_are_not_waited_for():
    """The interpreter exits although a function died beside threads that it had started; they can be joined, and others are."""
    out = in_subprocess("""
        import os, threading, time, sysclone
        read, write = os.pipe()

        def starts():
            for daemon in (False, True, False):
                threading.Thread(target=time.sleep, args=(60,), daemon=daemon).start()
            os._exit(3)

        def lasts():
            os.read(read, 1)
            os.write(1, b"waited for")

        threading.Thread(target=lasts).start()
        for _ in range(3):
            before = set(threading.enumerate())
            try:
                sysclone.call(starts)
            except sysclone.TaskExited:
                pass
            for thread in set(threading.enumerate()) - before:
                thread.join()
        threading.Thread(target=lambda: time.sleep(0.05) or os.write(write, b"x")).start()
    """)
    assert out == "waited for"


@requires("user_namespaces")
def test_threads_that_died_in_a_pid_namespace_are_not_waited_for():
    """Threads whose ids there are those of other tasks here are known to be dead."""
    in_subprocess("""
        import os, threading, time, sysclone
        from sysclone import Context, Namespace, Share, TaskExited
        inside = Context(share=Share.VM, new=Namespace.USER | Namespace.PID)
        threads = []

        def starts():
            for _ in range(3):
                threads.append(threading.Thread(target=time.sleep, args=(60,)))
                threads[-1].start()
            assert threads[0].native_id < 10
            os._exit(3)

        try:
            inside.call(starts)
        except TaskExited:
            pass
        for thread in threads:
            thread.join()
    """)


LAST_ACTS = {
    "fault": "ctypes.string_at(8)",  # with the GIL, as every foreign function that is a method of PyDLL
    "exit": "os._exit(3)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "sleep": "time.sleep(60)",
}


@pytest.mark.parametrize("verb", ["sysclone.call({})", "sysclone.start({}).result()"], ids=["call", "start"])
@pytest.mark.parametrize("act", LAST_ACTS)
def test_threads_that_were_left_may_die(act, verb):
    """Where a thread that a function left takes its process along, the program goes on, joins its threads, and ends."""
    in_subprocess(f"""
        import ctypes, os, signal, threading, time, sysclone
        threads = []

        def leaves():
            threads.clear()
            for daemon in (False, True):
                threads.append(threading.Thread(target=go_on.wait, daemon=daemon))
            threads.append(threading.Thread(target=lambda: (go_on.wait(), {LAST_ACTS[act]})))
            for thread in threads:
                thread.start()
            return os.getpid()

        for _ in range(3):
            go_on = threading.Event()
            pid = {verb.format("leaves")}
            go_on.set()
            if {act == "sleep"}:
                os.kill(pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            others = [threading.Thread(target=sum, args=(range(100_000),)) for _ in range(4)]
            for other in others:
                other.start()
            for other in others:
                other.join()
        go_on = threading.Event()
        pid = {verb.format("leaves")}
        if {act == "sleep"}:
            threading.Thread(target=lambda: time.sleep(0.05) or os.kill(pid, signal.SIGKILL)).start()
        else:
            threading.Thread(target=lambda: time.sleep(0.05) or go_on.set()).start()
    """)


@requires("no_sanitizer")  # a thread may die while it has the lock of the sanitizer's allocator
@pytest.mark.parametrize("act", ["fault", "exit"])
def test_a_process_may_die_while_its_threads_begin_and_end(act):
    """Whatever step a thread has come to when its process dies: others begin and end after it, and so does the interpreter."""
    in_subprocess(f"""
        import ctypes, os, random, threading, time, sysclone

        def starts():
            threading.Thread(target=dies).start()
            while True:
                threading.Thread(target=sum, args=(range(random.randrange(4000)),)).start()

        def dies():
            time.sleep(random.random() * 4e-3)
            {LAST_ACTS[act]}

        for _ in range(20):
            try:
                sysclone.call(starts)
            except sysclone.TaskFailed:
                pass
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
    """)


def test_a_turn_at_the_gil_that_the_dead_asked_for_is_not_waited_for():
    """A program lets go of the GIL, and has it again, although a thread died that had asked for it and nobody else wants it."""
    in_subprocess("""
        import itertools, os, threading, time, sysclone

        def wants_it():
            began.set()
            while True:
                time.sleep(0.001)

        def dies():
            threading.Thread(target=wants_it).start()
            began.wait()
            list(map(os._exit, filter((1_000_000).__le__, itertools.count())))  # in C alone: nobody is let in meanwhile

        for _ in range(3):
            began = threading.Event()
            try:
                sysclone.call(dies)
            except sysclone.TaskExited:
                pass
            time.sleep(0)
    """)


def test_a_lock_that_the_dead_waited_for_is_the_livings():
    """A lock for which functions and threads waited that died goes to those who live."""
    in_subprocess("""
        import os, threading, time, sysclone
        lock = threading.Lock()
        lock.acquire()

        def waits():
            for _ in range(2):
                threading.Thread(target=lock.acquire).start()
            threading.Thread(target=lambda: time.sleep(0.05) or os._exit(3)).start()
            lock.acquire()

        for _ in range(3):
            try:
                sysclone.call(waits)
            except sysclone.TaskExited:
                pass
        lock.release()
        assert lock.acquire(timeout=10)
    """)


def test_a_thread_may_die_in_its_turn():
    """A thread that crashes the process of a function while it has the GIL does not take it along."""
    in_subprocess("""
        import ctypes, os, threading, time, sysclone

        def sleeps():
            threading.Thread(target=ctypes.string_at, args=(8,)).start()
            time.sleep(60)

        for n in range(6):
            try:
                (sysclone.call if n % 2 else lambda fn: sysclone.start(fn).result())(sleeps)
            except sysclone.TaskKilled as error:
                assert error.status.signal == 11
    """)


@requires("no_sanitizer")  # the function may be killed while it holds the lock of the sanitizer's allocator
@pytest.mark.parametrize("parent", ["caller", "sibling"])
def test_what_runs_for_a_killed_function_dies_with_it(parent):
    """A function that is killed while another one runs for it takes that one along, which ran as the caller's own thread."""
    in_subprocess(f"""
        import os, signal, threading, time, sysclone
        from helpers import lives
        from sysclone import Context, Share, TaskKilled
        told, tell = os.pipe()
        inner = Context(share=Share.VM, parent={parent!r}, exit_signal={"0" if parent == "sibling" else "signal.SIGCHLD"})

        def counts():
            global count
            os.write(tell, b"%d " % os.getpid())
            while True:
                count += 1

        def calls():
            os.write(tell, b"%d " % os.getpid())
            inner.call(counts)

        def kills():
            pids = b""
            while pids.count(b" ") < 2:
                pids += os.read(told, 100)
            outer, within = map(int, pids.split())
            while count < 1000:
                pass
            found.append(within)
            os.kill(outer, signal.SIGKILL)

        found = []
        for _ in range(10):
            count = 0
            killer = threading.Thread(target=kills)
            killer.start()
            try:
                sysclone.call(calls)
            except TaskKilled as error:
                assert error.status.signal == signal.SIGKILL
            before = count
            killer.join()
            assert count == before
            while lives(found[-1]):  # past its last instruction, but maybe not at its end
                os.sched_yield()
    """)


def test_a_forked_child_knows_nothing_of_its_creators_left_threads():
    """What is left to be reaped is the creator's, and a forked child has none of it."""
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)

    sysclone.call(thread.start)
    try:
        assert _core.reap_pending() == 1
        child = os.fork()
        if child == 0:
            os._exit(_core.reap_pending())
        assert os.waitpid(child, 0)[1] == 0
    finally:
        go_on.set()
        thread.join()
    deadline = time.monotonic() + 10
    while _core.reap_pending() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _core.reap_pending() == 0


def test_a_task_of_another_table_closes_no_fd_here():
    """A Task made inside a light process with a file table of its own closes none of the creator's fds when it goes."""
    task = sysclone.call(lambda: sysclone.start(int))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    try:
        task.close()
        del task
        gc.collect()
        for fd in fds:
            os.fstat(fd)
    finally:
        for fd in fds:
            os.close(fd)
    # The light process ends with its helper, which has no fd of ours to tell by.
    deadline = time.monotonic() + 10
    while _core.reap_pending() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _core.reap_pending() == 0


def test_workers_forked_in_a_light_process_answer_signals():
    """A process forked inside a light one has default handlers: SIGTERM ends it."""

    def forks():
        pid = os.fork()
        if pid == 0:
            try:
                time.sleep(30)
            finally:
                os._exit(0)
        os.kill(pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert sysclone.call(forks) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGRTMIN])
def test_a_signal_ends_functions_that_fight_for_the_gil(number):
    """Signals to functions that spin, and so mostly wait for the GIL, end each by that signal and hang nothing."""

    def spins():
        while True:
            pass

    tasks = [sysclone.start(spins) for _ in range(6)]
    for task in tasks:
        task.send_signal(number)
    for task in tasks:
        with pytest.raises(TaskKilled) as caught:
            task.result(30)
        assert caught.value.signal == number
        assert task.status.signal == number
        task.close()
    assert sysclone.call(sys.getrecursionlimit) == sys.getrecursionlimit()


def test_a_task_in_a_cycle_is_collected():
    """An object whose method ran in a task that it keeps is freed with its pidfd."""

    class Owner:
        def run(self):
            return None

        def begin(self):
            self.task = sysclone.start(self.run)
            self.task.wait()

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Owner().begin()
    gc.collect()

    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_handler_of_the_programs_runs_during_a_call():
    """A signal with a Python handler is answered while the main thread is lent out, and no errno is lost by it."""
    seen: list[int] = []
    wrong: list[OSError] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))

    def looks():
        while len(seen) < 3:
            try:
                os.rmdir("/no/such/folder")
            except FileNotFoundError:
                pass
            except OSError as error:
                wrong.append(error)

    def sends():
        while len(seen) < 3:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)

    sender = threading.Thread(target=sends)
    try:
        sender.start()
        LIGHT.call(looks)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)

    assert not wrong
    assert len(seen) >= 3
