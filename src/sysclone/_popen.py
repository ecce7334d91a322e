"""Programs: subprocess.Popen with a Context, made by one clone that copies nothing, each failing step named.

A subclass: arguments, pipes, communicate, timeouts and text modes are subprocess's own. What differs is how the child is
made and waited for.
"""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import warnings

from . import _core
from ._cgroup import CgroupDirectory
from ._context import Description
from ._errors import CloneError, ContextError, SyscloneWarning
from ._flags import Share, format_flags, format_step
from ._idmap import plan_of
from ._program import argv_and_program, environment, outside, search, text_encoding
from ._status import Status
from ._steps import steps_of, take
from ._wait import late_status, reap, to_rusage, wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    import threading
    from collections.abc import Callable
    from typing import Any, Final

    class _Base(subprocess.Popen[Any]):
        _waitpid_lock: threading.Lock

        def _internal_poll(self, _deadstate: Any = None, **ignored: Any) -> int | None: ...
        def _wait(self, timeout: float | None) -> int: ...
        def _execute_child(self, *arguments: Any) -> None: ...
        def _handle_exitstatus(self, sts: int) -> None: ...

else:
    _Base = subprocess.Popen

# exec gives the program a memory, a file table and handlers of its own, whatever the clone shared.
_UNDONE_BY_EXEC: Final = Share.VM | Share.FILES | Share.SIGHAND
_STEPS: Final = (
    "",
    "dup2",
    "chdir",
    "setsid",
    "setpgid",
    "setgroups",
    "setregid",
    "setreuid",
    "preexec_fn",
    "fcntl",
    "execve",
)
_STEP_CHDIR: Final = 2
_STEP_SETUP: Final = 8
_STEP_EXEC: Final = 10

PLAIN: Final = Description()
_WAITPID: Final = os.waitpid


class Popen(_Base):
    """A running program.

    Args:
        args, and every keyword of subprocess.Popen: as there.
        context: a Context; None is a plain new process.

    Raises:
        CloneError: a step failed, by name; also the OSError subclass of its errno, as from subprocess.
        ContextError: the context cannot be had by a program.

    Warns:
        SyscloneWarning: the context shares what exec separates (memory, file table, handlers), or has an exit signal,
            which exec sets back to SIGCHLD.
    """

    pid: int
    pidfd: int = -1
    returncode: Any
    _signal_mask: int | None = None
    """The program's, as bits; None for the caller's."""

    def __init__(
        self,
        args: Any,
        bufsize: int = -1,
        executable: Any = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        preexec_fn: Callable[[], Any] | None = None,
        close_fds: bool = True,
        shell: bool = False,
        cwd: Any = None,
        env: Any = None,
        universal_newlines: bool | None = None,
        startupinfo: None = None,
        creationflags: int = 0,
        restore_signals: bool = True,
        start_new_session: bool = False,
        pass_fds: Any = (),
        *,
        context: Description | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **keywords: Any,
    ) -> None:
        self.context: Description = PLAIN if context is None else context
        self._ended_as: Status | None = None
        self._usage: tuple[float, ...] | None = None
        _check(self.context)
        if sys.flags.warn_default_encoding and encoding is None and (errors or text or universal_newlines):
            encoding = text_encoding()
        super().__init__(
            args, bufsize, executable, stdin, stdout, stderr, preexec_fn, close_fds, shell, cwd, env, universal_newlines,
            startupinfo, creationflags, restore_signals, start_new_session, pass_fds,
            encoding=encoding, errors=errors, text=text, **keywords,
        )  # fmt: skip

    # --- making

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Callable[[], Any] | None,
        close_fds: bool,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        *identity: Any,
    ) -> None:
        if not subprocess._USE_VFORK and self.context == PLAIN:
            # subprocess's own switch for those who want no child in their memory.
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *identity,
            )  # fmt: skip
            self.pidfd = _pidfd_of(self.pid)
            return
        restore_signals, gid, gids, uid, umask, start_new_session, process_group = identity
        argv, program = argv_and_program(args, executable, shell)
        sys.audit("subprocess.Popen", program, argv, cwd, env)
        paths = search(program, env)
        envp = None if env is None else environment(env)
        rest = (
            [os.fsencode(a) for a in argv],
            envp,
            None if cwd is None else os.fsencode(cwd),
            (p2cread, c2pwrite, errwrite),
            tuple(sorted({int(fd) for fd in pass_fds})),
            close_fds,
            restore_signals,
            start_new_session,
            process_group,
            -1 if gid is None else gid,
            None if gids is None else tuple(gids),
            -1 if uid is None else uid,
            umask,
        )
        if preexec_fn is None:
            outcome = self._spawn(paths, *rest, None, self._signal_mask)
        else:
            outcome = self._spawn_after(preexec_fn, envp, paths, *rest)
        # The child has its own copies; a pipe whose other end stays open here would never end.
        devnull = getattr(self, "_devnull", None)
        for ours, theirs in ((p2cwrite, p2cread), (c2pread, c2pwrite), (errread, errwrite)):
            if theirs != -1 and ours != -1 and theirs != devnull:
                os.close(theirs)
        if devnull is not None:
            os.close(devnull)
        self._closed_child_pipe_fds = True
        self._take(outcome, cwd, program)

    def _spawn_after(
        self, preexec_fn: Callable[[], Any], envp: list[bytes] | None, *rest: Any
    ) -> tuple[int, int, int, int, int, BaseException | str | None]:
        if sys.version_info >= (3, 12) and _core.finalizing():
            # As subprocess: PythonFinalizationError is new in 3.13, and a RuntimeError.
            error = getattr(builtins, "PythonFinalizationError", RuntimeError)
            raise error("preexec_fn not supported at interpreter shutdown")
        from ._preexec import Preexec

        mask = self._signal_mask
        if mask is None:
            mask = sum(1 << (number - 1) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        with Preexec(preexec_fn, envp, mask) as setup:
            return self._spawn(*rest, setup, mask)

    def _spawn(self, paths: list[bytes], *rest: Any) -> tuple[int, int, int, int, int, BaseException | str | None]:
        context = self.context
        steps = steps_of(context, light=False)
        if steps:
            *plain, preexec, mask = rest

            def set_up() -> object:
                take(steps)
                return preexec() if preexec is not None else None

            rest = (*plain, set_up, mask)
        if context.cgroup is None:
            return _core.spawn(plan_of(context, "program", drop=_UNDONE_BY_EXEC), paths, *rest)
        with CgroupDirectory(context.cgroup) as cgroup:
            if cgroup.can_be_born_in:
                plan = plan_of(context, "program", drop=_UNDONE_BY_EXEC, cgroup=cgroup.fd)
                return _core.spawn(plan, paths, *rest)
            *plain, setup, mask = rest

            def enter() -> object:
                cgroup.enter()
                return setup() if setup is not None else None

            return _core.spawn(plan_of(context, "program", drop=_UNDONE_BY_EXEC), paths, *(*plain, enter, mask))

    def _take(
        self, outcome: tuple[int, int, int, int, int, BaseException | str | None], cwd: Any, program: Any
    ) -> None:
        pid, pidfd, step, errno, _path, exception = outcome
        if step == 0:
            self.pid, self.pidfd = pid, pidfd
            self._child_created = True
            return
        if pid:
            self.returncode = 127
        if step == _STEP_SETUP:
            if isinstance(exception, CloneError):
                raise exception
            if isinstance(exception, KeyboardInterrupt):
                raise exception  # the program's own: its main thread was at it
            # subprocess's words; what happened is the cause.
            error = subprocess.SubprocessError("Exception occurred in preexec_fn.")
            error.add_note(repr(exception) if exception is not None else "it ended the child")
            raise error from (exception if isinstance(exception, BaseException) else None)
        if step < 0:
            context = self.context
            tried = format_step("clone3", int(context.flags), set_tid=context.tid, cgroup=context.cgroup)
            raise CloneError(errno, step=tried if exception == "clone" else str(exception))
        name, filename = _STEPS[step], None
        if step in (_STEP_CHDIR, _STEP_EXEC):
            filename = cwd if step == _STEP_CHDIR else program
            name = f"{name}({os.fsdecode(filename)})"
        raise CloneError(errno, step=name, filename=filename)

    # --- waiting: by pidfd, with __WALL, never by a number that may be another's

    def fileno(self) -> int:
        """The pidfd: readable when the program has ended.

        Raises:
            ValueError: it was closed, because the program has been waited for.
        """
        if self.pidfd < 0:
            raise ValueError("the program has been waited for, and its pidfd is closed")
        return self.pidfd

    def done(self) -> bool:
        """Whether the program has ended. Never waits."""
        return self.poll() is not None

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs. Where nobody saw it, unknown: never 0."""
        self.poll()
        return self._ended_as

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What it used; None while it runs and where another reaped it."""
        self.poll()
        return to_rusage(self._usage) if self._usage is not None else None

    def _collect(self) -> None:
        """Wait for the end and reap; the caller holds the lock."""
        if self.context.parent == "caller":
            self._ended_as, self._usage = reap(self.pidfd, self.pid, own_child=True)
            if self._usage is None and os.waitpid is not _WAITPID:
                # Another reaped it, and has put its own waitpid in place of the system's (gevent does): it is to be asked.
                pid, word = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(word)
                    self._ended_as = _as_status(self.returncode)
        else:
            wait_readable(self.pidfd, None)
            self._ended_as = late_status(self.pidfd, self.pid)
        # subprocess's number has no word for unknown; 255 is no success, and status tells.
        if self.returncode is None:
            code = self._ended_as.returncode
            self.returncode = 255 if code is None else code
        os.close(self.pidfd)
        self.pidfd = -1

    def _internal_poll(self, _deadstate: Any = None, **ignored: Any) -> int | None:
        if self.returncode is None and self.pidfd < 0:
            self._by_number(super()._internal_poll(_deadstate, **ignored))
            return self._code()
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.pidfd >= 0 and wait_readable(self.pidfd, 0):
                    self._collect()
            finally:
                self._waitpid_lock.release()
        return self._code()

    def _code(self) -> int | None:
        code: int | None = self.returncode
        return code

    def _by_number(self, code: int | None) -> None:
        """Before Linux 5.3 there is no pidfd, and subprocess's own waiting must do."""
        if code is not None and self._ended_as is None:
            self._ended_as = _as_status(code)

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and self.pidfd < 0:
            code = super()._wait(timeout)
            self._by_number(code)
            return code
        if timeout is not None and self.returncode is None and not wait_readable(self.pidfd, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        with self._waitpid_lock:
            if self.returncode is None:
                self._collect()
        return int(self.returncode)

    def send_signal(self, sig: int) -> None:
        """Send a signal by pidfd; does nothing when the program has ended."""
        self.poll()
        if self.returncode is not None:
            return
        if self.pidfd < 0:
            super().send_signal(sig)
            return
        try:
            _core.pidfd_send_signal(self.pidfd, int(sig), 0)
        except ProcessLookupError:
            pass

    def __del__(self, *args: Any, **keywords: Any) -> None:
        super().__del__(*args, **keywords)
        if getattr(self, "returncode", None) is not None and self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _check(context: Description) -> None:
    if Share.THREAD in context.share:
        raise ContextError(
            "share=THREAD for a program: exec would end every other thread of this process", field="share"
        )
    undone = context.share & _UNDONE_BY_EXEC
    if undone:
        _warn(f"{format_flags(int(undone))} will not last: exec gives the program its own")
    if context.signal not in (0, int(signal.SIGCHLD)) or context.exit_signal == 0:
        _warn(f"the exit signal {context.signal} will not last: exec sets it back to SIGCHLD")


def _warn(message: str) -> None:
    warnings.warn(message, SyscloneWarning, stacklevel=outside())


def _as_status(code: int) -> Status:
    return Status(signal=-code) if code < 0 else Status(exit_code=code)


def _pidfd_of(pid: int) -> int:
    """A pidfd of a child that has not been waited for; -1 where the kernel reaps by itself, or has none."""
    try:
        return _core.pidfd_open(pid, 0)
    except OSError:
        return -1
