"""Programs in asyncio, with a Context: asyncio's own Process and streams, and each end seen by a pidfd in the loop itself.

No child watcher and no SIGCHLD: it works in any loop that can watch an fd, in any thread, on each version alike. A program is
started by a thread that lives no longer than the start, since exec may take its time (a file system that does not answer).
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import os
import subprocess
from asyncio import base_subprocess, streams
from asyncio import subprocess as _subprocess
from signal import SIGKILL, SIGTERM

from ._errors import Unsupported
from ._flags import Share
from ._popen.popen import Popen
from ._to_process import to_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Final, TypeVar

    from ._context.description import Description

    R = TypeVar("R")

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Process", "create_subprocess_exec", "create_subprocess_shell", "to_process"]

PIPE: Final = subprocess.PIPE
STDOUT: Final = subprocess.STDOUT
DEVNULL: Final = subprocess.DEVNULL
_LIMIT: Final[int] = streams._DEFAULT_LIMIT  # type: ignore[attr-defined]


class Process(_subprocess.Process):
    """asyncio's Process of a program that was made here.

    Its signals go by pidfd, and wait() returns when the program has ended, although another may hold its pipes. A wait() or
    communicate() that is cancelled kills the program and reaps it before CancelledError goes on, unless
    `kill_on_cancel=False` was asked for.
    """

    _transport: _Transport

    @property
    def popen(self) -> Popen:
        """The program's Popen: its status, usage, cause and tree."""
        return self._transport.popen

    async def wait(self) -> int:
        """Wait for the end, and give the return code."""
        return await self._or_end(super().wait())

    async def communicate(self, input: bytes | bytearray | memoryview | None = None) -> tuple[bytes, bytes]:  # noqa: A002
        """Write input, read both streams to their end, and wait: what came of the streams, as of asyncio's own."""
        return await self._or_end(super().communicate(input))

    async def _or_end(self, waiting: Awaitable[R]) -> R:
        try:
            return await waiting
        except asyncio.CancelledError:
            await self._transport.end_by_cancel()
            raise


async def create_subprocess_exec(
    program: Any,
    *args: Any,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _LIMIT,
    context: Description | None = None,
    kill_on_cancel: bool = True,
    **keywords: Any,
) -> Process:
    """Start a program, as asyncio.create_subprocess_exec, in a context.

    Args:
        program, args, stdin, stdout, stderr, limit: as of asyncio's.
        context: a Context; None is a plain new process.
        kill_on_cancel: whether a cancelled wait() or communicate() kills the program. (A start that is cancelled does.)
        keywords: every other one of Popen, but for those of text modes.

    Returns:
        A Process, which is an asyncio.subprocess.Process.

    Raises:
        CloneError: a step failed, by name; also the OSError subclass of its errno.
        ValueError: a text mode, or a bufsize, was asked for: the streams carry bytes.
        Unsupported: this kernel has no pidfds (Linux 5.3).
    """
    return await _create((program, *args), False, stdin, stdout, stderr, limit, context, kill_on_cancel, keywords)


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _LIMIT,
    context: Description | None = None,
    kill_on_cancel: bool = True,
    **keywords: Any,
) -> Process:
    """Start a line in a shell, as asyncio.create_subprocess_shell, in a context.

    Args:
        cmd: the line.
        stdin, stdout, stderr, limit, context, kill_on_cancel, keywords: as of create_subprocess_exec.

    Returns:
        A Process, which is an asyncio.subprocess.Process.

    Raises:
        CloneError, ValueError, Unsupported: as of create_subprocess_exec.
    """
    if not isinstance(cmd, (str, bytes)):
        raise ValueError("cmd must be a string")
    return await _create(cmd, True, stdin, stdout, stderr, limit, context, kill_on_cancel, keywords)


async def _create(
    args: Any,
    shell: bool,
    stdin: Any,
    stdout: Any,
    stderr: Any,
    limit: int,
    context: Description | None,
    kill_on_cancel: bool,
    keywords: dict[str, Any],
) -> Process:
    for name in ("universal_newlines", "text", "encoding", "errors"):
        if keywords.pop(name, None):
            raise ValueError(f"{name} must be {'None' if name in ('encoding', 'errors') else 'False'}")
    if keywords.pop("bufsize", 0) != 0:
        raise ValueError("bufsize must be 0")
    if keywords.pop("shell", shell) != shell:
        raise ValueError(f"shell must be {shell}")
    loop = asyncio.get_running_loop()
    popen, cancelled = await _started(args, shell, stdin, stdout, stderr, context, keywords)
    protocol = _subprocess.SubprocessStreamProtocol(limit=limit, loop=loop)
    connected = loop.create_future()
    transport = _Transport(loop, protocol, args, shell, stdin, stdout, stderr, 0, waiter=connected, popen=popen)
    transport.kills_on_cancel = kill_on_cancel
    try:
        if cancelled is not None:
            raise cancelled
        await connected
    except BaseException:
        transport.kills_on_cancel = True
        await transport.end_by_cancel()
        raise
    return Process(transport, protocol, loop)


async def _started(
    args: Any,
    shell: bool,
    stdin: Any,
    stdout: Any,
    stderr: Any,
    context: Description | None,
    keywords: dict[str, Any],
) -> tuple[Popen, asyncio.CancelledError | None]:
    """The program, when it has been started, and the cancel that came meanwhile: until exec is over nobody can be killed."""

    def start() -> Popen:
        popen = Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=0, context=context, **keywords
        )
        if popen.pidfd < 0:
            popen.kill()
            popen.wait()
            raise Unsupported("a program in asyncio", since="5.3", reason="this kernel has no pidfds")
        return popen

    if context is not None and _is_of_the_thread(context):
        return start(), None
    return await _apart(start)


def _is_of_the_thread(context: Description) -> bool:
    """Whether it matters which thread makes the program, and that it lives on.

    A parent-death signal comes at the end of the creating thread; a tracer traces threads; an I/O context is a thread's.
    """
    return context.parent_death_signal is not None or context.ptrace or Share.IO in context.share


async def _apart(act: Callable[[], R]) -> tuple[R, asyncio.CancelledError | None]:
    """Call it in a thread of its own, whose cwd, files, namespaces, CPUs, priority and signal mask are the caller's by birth.

    Returns:
        What it gives, and the last cancel that came meanwhile.

    Raises:
        BaseException: what it raised; the cancel where one came.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = context.run(act)
        except BaseException as e:
            error = e
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            # The loop was closed, and nobody waits: as a transport that nobody closed, it kills.
            if isinstance(value, Popen):
                with value:
                    value.kill()

    try:
        _thread.start_new_thread(run, ())  # threading's would wait for it to begin
    except RuntimeError:
        run()  # there may be no more threads
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled is not None and done.exception() is not None:
        raise cancelled
    return done.result(), cancelled


class _Transport(base_subprocess.BaseSubprocessTransport):
    """asyncio's own transport, over a Popen that is watched by its pidfd."""

    kills_on_cancel = True
    popen: Popen
    _loop: Any
    _proc: Popen | None
    _returncode: int | None

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **keywords: Any
    ) -> None:
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self.popen = self._proc = popen = keywords["popen"]
        self._watch = _Watch(popen.pidfd)
        self._loop.add_reader(self._watch, self._on_exit)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._watch)
        self._watch.close()
        returncode = self.popen.wait()
        if not self._ended.done():
            self._ended.set_result(returncode)
        self._process_exited(returncode)

    async def _wait(self) -> int:
        # asyncio's own waits for the pipes too, in some releases: another may hold them for ever.
        if self._returncode is not None:
            return self._returncode
        return await asyncio.shield(self._ended)

    async def end_by_cancel(self) -> None:
        """Kill the program, if it is to be killed, close its pipes, and wait until it is reaped."""
        if not self.kills_on_cancel:
            return
        if self.popen.has_tree:
            await _apart(self.popen.kill_tree)
        self.close()
        while not self._ended.done():
            try:
                await asyncio.shield(self._ended)
            except asyncio.CancelledError:
                continue  # it is asked for already: a killed program ends soon

    def send_signal(self, signal: int) -> None:
        """Send a signal by pidfd."""
        self._check_proc()
        self.popen.send_signal(signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(SIGKILL)


class _Watch:
    """A pidfd of the loop's own: the Popen's is closed by whoever waits, and the loop must not watch another's number."""

    def __init__(self, pidfd: int) -> None:
        self._fd = os.dup(pidfd)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()
