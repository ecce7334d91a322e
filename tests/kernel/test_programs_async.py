"""Programs in asyncio and, by anyio, in trio: their streams, their ends by pidfd, and what a cancel does."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import anyio
import pytest
from features import requires
from gate import Gate
from helpers import ended, in_subprocess, state

import sysclone
import sysclone.asyncio as programs
from sysclone import Context, Namespace, Popen

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run(coroutine, seconds=20):
    """Run a coroutine in a loop of its own, within a time."""

    async def limited():
        async with asyncio.timeout(seconds):
            return await coroutine

    return asyncio.run(limited())


# --- asyncio


def test_a_process_is_asyncios_own():
    """What is created is an asyncio Process with asyncio's streams, and its end and output arrive."""

    async def main():
        process = await programs.create_subprocess_exec(
            "sh", "-c", "cat; echo err >&2; exit 3", stdin=-1, stdout=-1, stderr=-1
        )
        assert isinstance(process, asyncio.subprocess.Process)
        assert isinstance(process.stdout, asyncio.StreamReader)
        assert isinstance(process.stdin, asyncio.StreamWriter)
        assert process.pid == process.popen.pid
        return await process.communicate(b"in"), process.returncode, process.popen.status.exit_code

    assert run(main()) == ((b"in", b"err\n"), 3, 3)


def test_much_data_goes_both_ways():
    """Megabytes go in and out at the same time, in pieces."""
    data = os.urandom(3_000_000)

    async def main():
        process = await programs.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        return (await process.communicate(data))[0]

    assert run(main()) == data


def test_a_shell_line():
    """create_subprocess_shell runs a line in /bin/sh, and refuses what is no line."""

    async def main():
        process = await programs.create_subprocess_shell("echo $((1 + 2)); exit 5", stdout=-1)
        out = await process.stdout.readline()
        with pytest.raises(ValueError, match="cmd must be a string"):
            await programs.create_subprocess_shell(["true"])
        return out, await process.wait()

    assert run(main()) == (b"3\n", 5)


@pytest.mark.parametrize("keywords", [{"text": True}, {"encoding": "utf-8"}, {"errors": "strict"}, {"bufsize": 1}])
def test_text_is_refused(keywords):
    """Text modes and buffers are ValueErrors, as from asyncio, and nothing is started."""

    async def main():
        with pytest.raises(ValueError, match="must be"):
            await programs.create_subprocess_exec("true", **keywords)

    run(main())


def test_a_failed_start_is_named(tmp_path):
    """A program that is not there is the CloneError of Popen, and leaves nothing."""

    async def main():
        with pytest.raises(FileNotFoundError) as caught:
            await programs.create_subprocess_exec(tmp_path / "none", stdin=-1, stdout=-1)
        return caught.value.step

    assert run(main()) == f"execve({tmp_path}/none)"


@requires("user_namespaces", "uts_namespaces")
def test_a_context_is_had():
    """context= makes the program as it says: here in namespaces of its own."""

    async def main():
        context = Context(new=Namespace.USER | Namespace.UTS)
        process = await programs.create_subprocess_exec("readlink", "/proc/self/ns/uts", stdout=-1, context=context)
        return (await process.communicate())[0]

    assert run(main()).decode().strip() not in ("", os.readlink("/proc/self/ns/uts"))


def test_the_end_is_seen_though_another_holds_the_pipe():
    """wait() returns when the program has ended, although what it started holds its output open."""

    async def main():
        process = await programs.create_subprocess_shell("sleep 60 & echo $!; exit 4", stdout=-1)
        other = int(await process.stdout.readline())
        pidfd = os.pidfd_open(other)
        try:
            return await process.wait()
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            process._transport.close()
            assert ended(pidfd)
            os.close(pidfd)

    assert run(main()) == 4


def test_signals_go_by_pidfd():
    """send_signal, terminate and kill reach the program, and after its end they reach nobody."""

    async def main():
        codes = []
        for act in (lambda one: one.send_signal(signal.SIGUSR1), lambda one: one.terminate(), lambda one: one.kill()):
            process = await programs.create_subprocess_exec("sleep", "60")
            act(process)
            codes.append(await process.wait())
            with pytest.raises(ProcessLookupError):
                act(process)
        return codes

    assert run(main()) == [-signal.SIGUSR1, -signal.SIGTERM, -signal.SIGKILL]


def test_in_loops_of_many_threads():
    """Eight threads with a loop each run programs at once: no watcher is needed, and each status is its own."""
    out = []

    async def one(number):
        process = await programs.create_subprocess_exec("sh", "-c", f"echo {number}; exit {number}", stdout=-1)
        text, _ = await process.communicate()
        return int(text), process.returncode

    async def main(first):
        return await asyncio.gather(*(one(first + step) for step in range(4)))

    threads = [threading.Thread(target=lambda first=first: out.extend(run(main(first)))) for first in range(0, 32, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(out) == [(number, number) for number in range(32)]


@pytest.mark.parametrize("how", ["wait", "communicate"])
def test_a_cancel_kills_and_reaps(how):
    """A wait or communicate that is cancelled leaves no program and no zombie."""

    async def main():
        process = await programs.create_subprocess_exec("sleep", "60", stdout=-1)
        task = asyncio.create_task(getattr(process, how)())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return process.returncode, state(process.pid)

    assert run(main()) == (-signal.SIGKILL, "")


def test_a_cancelled_start_kills_and_reaps():
    """A start that is cancelled before it has its pipes leaves nothing."""

    async def main():
        task = asyncio.create_task(
            programs.create_subprocess_exec("sleep", "60", stdin=-1, stdout=-1, kill_on_cancel=False)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_cancel_may_let_the_program_be():
    """With kill_on_cancel=False a cancelled wait leaves the program alone, as asyncio does."""

    async def main():
        process = await programs.create_subprocess_exec("sleep", "60", kill_on_cancel=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.05)
        assert process.returncode is None
        process.terminate()
        return await process.wait()

    assert run(main()) == -signal.SIGTERM


def test_a_cancel_takes_the_tree(adopts_nobody):
    """With tree=True a cancel kills what the program started too."""

    async def main():
        process = await programs.create_subprocess_shell("sleep 60 & echo $!; wait", stdout=-1, tree=True)
        pidfd = os.pidfd_open(int(await process.stdout.readline()))
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.05)
            return ended(pidfd)
        finally:
            os.close(pidfd)

    assert run(main())


def test_a_loop_that_ends_first_leaves_nothing():
    """A program that is still there when its loop is closed is killed with its transport, and its pidfd is closed."""
    kept = []

    async def main():
        process = await programs.create_subprocess_exec("sleep", "60")
        kept.append(process.popen)
        process._transport.close()

    run(main())
    assert kept.pop().wait() == -signal.SIGKILL


def test_asyncios_own_with_popen_replaced(monkeypatch):
    """asyncio.create_subprocess_exec works with subprocess.Popen replaced, too."""
    monkeypatch.setattr(subprocess, "Popen", Popen)

    async def main():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=-1)
        return (await process.communicate())[0], process.returncode

    assert run(main()) == (b"1\n", 0)


# --- the thread that starts a program


@pytest.fixture
def gate(tmp_path):
    """A program whose exec waits."""
    program = tmp_path / "slow"
    shutil.copy("/bin/sleep", program)
    gate = Gate(program)
    gate.program = program
    yield gate
    gate.close()


@requires("root", "fanotify_exec")
def test_a_slow_exec_does_not_stop_the_loop(gate):
    """While the kernel lets an exec wait, the loop goes on, and starts and ends other programs."""

    async def main():
        start = asyncio.create_task(programs.create_subprocess_exec(gate.program, "0"))
        event = await asyncio.to_thread(gate.arrives)
        for code in (3, 4):
            assert await (await programs.create_subprocess_shell(f"exit {code}")).wait() == code
        assert not start.done()
        gate.let_through(event)
        return await (await start).wait()

    assert run(main()) == 0


@requires("root", "fanotify_exec")
def test_a_cancel_within_exec_kills_when_it_is_over(gate):
    """A start that is cancelled while exec waits goes on waiting, then kills and reaps the program, and is cancelled."""

    async def main():
        start = asyncio.create_task(programs.create_subprocess_exec(gate.program, "60", stdin=-1, stdout=-1))
        event = await asyncio.to_thread(gate.arrives)
        for _ in range(3):
            start.cancel()
            await asyncio.sleep(0)
        assert not start.done()
        gate.let_through(event)
        with pytest.raises(asyncio.CancelledError):
            await start

    run(main())


@requires("root", "fanotify_exec")
def test_a_loop_that_is_closed_within_exec_leaves_nothing(gate):
    """A program whose start nobody waits for any more, since its loop is closed, is killed and reaped when exec is over."""
    loop = asyncio.new_event_loop()
    start = loop.create_task(programs.create_subprocess_exec(gate.program, "60", stdin=-1, stdout=-1))
    event = loop.run_until_complete(loop.run_in_executor(None, gate.arrives))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    gate.let_through(event)
    start._log_destroy_pending = False  # that is what it is


def test_a_cancelled_start_that_fails_is_cancelled(tmp_path):
    """Where the program is not there and the start is cancelled, the cancel is what comes of it."""

    async def main():
        start = asyncio.create_task(programs.create_subprocess_exec(tmp_path / "none"))
        await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    run(main())


def test_what_is_the_threads_is_had():
    """The program has the CPUs, priority and signal mask of the thread that asked, and preexec_fn its context variables."""
    out = in_subprocess(
        """
        import asyncio, contextvars, os, signal
        import sysclone.asyncio as programs
        word = contextvars.ContextVar("word")

        async def look(**keywords):
            rules = "/^Cpus_allowed_list|^SigBlk/ { print $2 } FNR == 1 && /^[0-9]/ { print $19 }"
            files = ("/proc/self/status", "/proc/self/stat")
            process = await programs.create_subprocess_exec("awk", rules, *files, stdout=-1, **keywords)
            return (await process.communicate())[0].split()

        async def main():
            before = int((await look())[2])
            cpu = max(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cpu})
            os.nice(3)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            word.set("here")
            seen = []
            blocked, cpus, nice = await look(preexec_fn=lambda: seen.append(word.get()))
            print(int(blocked, 16) == 1 << signal.SIGUSR1 - 1, int(cpus) == cpu, int(nice) - before, seen)

        asyncio.run(main())
        """
    )
    assert out == "True True 3 ['here']\n"


def test_a_parent_death_signal_is_not_that_of_the_start():
    """It comes at the end of the creating thread: so that is the loop's, which lives on."""

    async def main():
        process = await programs.create_subprocess_exec(
            "cat", stdin=-1, stdout=-1, context=Context(parent_death_signal=signal.SIGKILL)
        )
        await (await programs.create_subprocess_exec("true")).wait()
        return await process.communicate(b"still there"), process.returncode

    assert run(main()) == ((b"still there", None), 0)


def test_without_another_thread():
    """Where no thread can be made, the loop's own starts the program."""
    out = in_subprocess(
        """
        import asyncio, threading
        import sysclone.asyncio as programs

        async def main():
            threading.stack_size(1 << 46)
            process = await programs.create_subprocess_exec("sh", "-c", "exit 5")
            try:
                await programs.create_subprocess_exec("/none")
            except FileNotFoundError as error:
                return await process.wait(), error.step

        print(asyncio.run(main()))
        """
    )
    assert out == "(5, 'execve(/none)')\n"


# --- anyio


@BACKENDS
def test_a_wait_lets_others_run(backend):
    """wait_async gives the return code, and other tasks run meanwhile."""
    order = []

    async def main():
        program = Popen(["cat"], stdin=subprocess.PIPE)

        async def closes():
            order.append("closes")
            program.stdin.close()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(closes)
                order.append(await program.wait_async())
        return await program.wait_async()

    assert anyio.run(main, backend=backend) == 0
    assert order == ["closes", 0]


@BACKENDS
def test_a_cancelled_wait_kills_and_reaps(backend):
    """Cancelling wait_async kills the program and reaps it before the cancel goes on."""

    async def main():
        program = Popen(["sleep", "60"])
        with anyio.move_on_after(0.05) as scope:
            await program.wait_async()
        assert scope.cancelled_caught
        return program.returncode, state(program.pid)

    assert anyio.run(main, backend=backend) == (-signal.SIGKILL, "")


@BACKENDS
def test_a_cancelled_wait_may_let_the_program_be(backend):
    """With kill_on_cancel=False the program goes on when the wait is cancelled."""

    async def main():
        program = Popen(["cat"], stdin=subprocess.PIPE)
        with anyio.move_on_after(0.05):
            await program.wait_async(kill_on_cancel=False)
        assert program.poll() is None
        program.stdin.close()
        with anyio.fail_after(20):
            return await program.wait_async()

    assert anyio.run(main, backend=backend) == 0


@BACKENDS
def test_many_at_once(backend):
    """Thirty programs end in one loop, each with its own status."""
    found = {}

    async def one(number):
        found[number] = await Popen(["sh", "-c", f"exit {number}"]).wait_async()

    async def main():
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for number in range(30):
                    group.start_soon(one, number)

    begun = time.monotonic()
    anyio.run(main, backend=backend)
    assert found == {number: number for number in range(30)}
    assert time.monotonic() - begun < 20
    assert sysclone.run(["true"]).returncode == 0
