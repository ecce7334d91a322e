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
import time
import warnings

from .. import _core
from .._cgroup import CgroupDirectory
from .._context.description import Description
from .._errors import CloneError, ContextError, SyscloneWarning, TaskExited, TaskFailed, TaskKilled, TaskLost
from .._flags import Share, format_flags, format_step
from .._idmap import plan_of
from .._steps.descriptors import mask_of, place
from .._steps.steps import need_lending, steps_of, take
from .._task.status import Status
from .end import PLAIN, pidfd_of
from .merge import exec_of, is_script, merged, with_stdio
from .program import argv_and_program, environment, outside, search, text_encoding
from .pty import OnTerminal
from .usage import oom_kills

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    _Outcome = tuple[int, int, int, int, int, BaseException | str | None, int]

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
    "ioctl(TIOCSCTTY)",
    "prctl(PR_SET_CHILD_SUBREAPER)",
)
_STEP_CHDIR: Final = 2
_STEP_SETUP: Final = 8
_STEP_EXEC: Final = 10


class Popen(OnTerminal):
    """A running program.

    Args:
        args, and every keyword of subprocess.Popen: as there.
        context: a Context; None is a plain new process.
        tree: whether to keep hold of all that the program starts, for kill_tree, terminate_tree and usage: it adopts what
            its descendants leave behind, and this program what it leaves itself (PR_SET_CHILD_SUBREAPER, in both). The
            variable SYSCLONE_TREE in its environment tells them from this program's other children.
        pty: whether the program gets a terminal of its own, with the size of this program's or (columns, lines): its
            session's controlling terminal, with itself in the foreground, and those of its three streams that are None.
            `terminal` is the other end.

    Raises:
        CloneError: a step failed, by name; also the OSError subclass of its errno, as from subprocess.
        ContextError: the context cannot be had by a program.
        TaskFailed: the context's set-up ended the child (its `status` says how), and no program was run.

    Warns:
        SyscloneWarning: the context shares what exec separates (memory, file table, handlers), or has an exit signal,
            which exec sets back to SIGCHLD.
    """

    _signal_mask: int | None = None
    """The program's, as bits; None for the caller's."""
    _terminal_fd: int = -1
    """What becomes its session's terminal; none where negative."""
    _exec_fd: int = -1
    _placed: tuple[tuple[int, int], ...] = ()

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
        tree: bool = False,
        pty: bool | tuple[int, int] = False,
        **keywords: Any,
    ) -> None:
        self.has_tree: bool = bool(tree)
        self.context: Description = PLAIN if context is None else context
        self._asked = self.context
        if context is not None:
            _check(context)
        if sys.flags.warn_default_encoding and encoding is None and (errors or text or universal_newlines):
            encoding = text_encoding()
        if pty:
            stdin, stdout, stderr, start_new_session = self._open_terminal(pty, stdin, stdout, stderr)
        try:
            super().__init__(
                args, bufsize, executable, stdin, stdout, stderr, preexec_fn, close_fds, shell, cwd, env, universal_newlines,
                startupinfo, creationflags, restore_signals, start_new_session, pass_fds,
                encoding=encoding, errors=errors, text=text, **keywords,
            )  # fmt: skip
        except BaseException:
            self._drop_terminal()
            raise
        self._close_inner()

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
        forks = not getattr(subprocess, "_USE_VFORK", True)
        if forks and self.context == PLAIN and not self.has_tree and self._terminal_fd < 0:
            # subprocess's own switch for those who want no child in their memory.
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *identity,
            )  # fmt: skip
            self._began(self.pid, pidfd_of(self.pid))
            return
        restore_signals, gid, gids, uid, umask, start_new_session, process_group = identity
        named = cwd
        if self._asked is not PLAIN:
            together = merged(
                self.context,
                cwd=cwd,
                umask=umask if umask >= 0 else None,
                session=start_new_session or None,
                process_group=process_group if process_group >= 0 else None,
                controlling_terminal=self._terminal_fd if self._terminal_fd >= 0 else None,
                gid=gid,
                groups=None if gids is None else tuple(gids),
                uid=uid,
            )
            if together is not None:
                self._asked = together
                cwd, umask, start_new_session, process_group, gid, gids, uid = None, -1, False, -1, None, None, None
            executable, self._exec_fd, env = exec_of(self._asked, executable, env)
        argv, program = argv_and_program(args, executable, shell)
        if self._asked.argv0 is not None:
            argv[0] = self._asked.argv0
        if self._asked.signal_mask is not None:
            self._signal_mask = mask_of(self._asked.signal_mask)
        stdio = (p2cread, c2pwrite, errwrite)
        kept = {int(fd) for fd in pass_fds}
        if self._asked.fds:
            self._placed = with_stdio(self._asked, stdio)
            stdio = (-1, -1, -1)
            kept |= {target for target, _source in self._placed if target > 2}
        if self._exec_fd >= 0:
            kept.add(self._exec_fd)
        sys.audit("subprocess.Popen", program, argv, named, env)
        paths = search(program, env)
        if self.has_tree:
            env = self._keep_tree(env)
        envp = None if env is None else environment(env)
        rest = (
            [os.fsencode(a) for a in argv],
            envp,
            None if cwd is None else os.fsencode(cwd),
            stdio,
            tuple(sorted(kept)),
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
            outcome = self._spawn(None, self._signal_mask, paths, *rest)
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
        self._take(outcome, rest, cwd, program, preexec_fn is not None)

    def _spawn_after(self, preexec_fn: Callable[[], Any], envp: list[bytes] | None, *rest: Any) -> _Outcome:
        if sys.version_info >= (3, 12) and _core.finalizing():
            # As subprocess: PythonFinalizationError is new in 3.13, and a RuntimeError.
            error = getattr(builtins, "PythonFinalizationError", RuntimeError)
            raise error("preexec_fn not supported at interpreter shutdown")
        from .preexec import Preexec

        mask = self._signal_mask
        if mask is None:
            mask = sum(1 << (number - 1) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        with Preexec(preexec_fn, envp, mask) as setup:
            return self._spawn(setup, mask, *rest)

    def _spawn(self, setup: Callable[[], object] | None, mask: int | None, *rest: Any) -> _Outcome:
        context = self._asked
        steps = steps_of(context, light=False, program=True)
        if self._placed:
            steps = tuple((name, act, (self._placed,) if act is place else arguments) for name, act, arguments in steps)
        if steps or setup is not None:
            need_lending("set-up of a program in Python")
        inside = setup

        def take_steps() -> object:
            return take(steps, inside)

        if steps:
            setup = take_steps
        terminal = -1 if context.controlling_terminal is not None else self._terminal_fd
        stays = self._exec_fd >= 0 and is_script(self._exec_fd)
        last: Any = (mask, terminal, self.has_tree, self._exec_fd, stays)
        self._started = time.monotonic()
        if context.cgroup is None:
            return _core.spawn(plan_of(context, "program", drop=_UNDONE_BY_EXEC), *(*rest, setup, *last))
        with CgroupDirectory(context.cgroup) as cgroup:
            self._oom_kills = oom_kills(cgroup.fd)
            if cgroup.can_be_born_in:
                plan = plan_of(context, "program", drop=_UNDONE_BY_EXEC, cgroup=cgroup.fd)
                return _core.spawn(plan, *(*rest, setup, *last))
            need_lending("way into a cgroup but in Python")

            def enter() -> object:
                cgroup.enter()
                return setup() if setup is not None else None

            return _core.spawn(plan_of(context, "program", drop=_UNDONE_BY_EXEC), *(*rest, enter, *last))

    def _take(self, outcome: _Outcome, asked: tuple[Any, ...], cwd: Any, program: Any, had_preexec: bool) -> None:
        pid, pidfd, step, errno, place, exception, self._peak_before = outcome
        if step == 0:
            self._began(pid, pidfd)
            return
        if pid:
            self.returncode = 127
        if step == _STEP_SETUP:
            if isinstance(exception, CloneError):
                raise exception
            if isinstance(exception, KeyboardInterrupt):
                raise exception  # the program's own: its main thread was at it
            if not isinstance(exception, BaseException):
                exception = _ended_in_setup(pid, errno)
            if not had_preexec:
                raise exception  # the context's setup
            # subprocess's words; what happened is the cause.
            error = subprocess.SubprocessError("Exception occurred in preexec_fn.")
            error.add_note(repr(exception))
            raise error from exception
        if step < 0:
            context = self.context
            tried = format_step("clone3", int(context.flags), set_tid=context.tid, cgroup=context.cgroup)
            raise CloneError(errno, step=tried if exception == "clone" else str(exception))
        name, filename = _STEPS[step], None
        if step == _STEP_EXEC and self._exec_fd >= 0:
            raise CloneError(errno, step=f"execveat({self._exec_fd})")
        if step in (_STEP_CHDIR, _STEP_EXEC):
            filename = cwd if step == _STEP_CHDIR else program
            name = f"{name}({os.fsdecode(filename)})"
        raise CloneError(errno, step=_with_argument(name, place, asked), filename=filename)


def _ended_in_setup(pid: int, word: int) -> TaskFailed:
    """The error for a child that its set-up ended: killed, or by an exit of its own.

    Args:
        pid: its.
        word: how it ended, as of wait4(2); -1 where nobody saw it.
    """
    status = Status.from_wait(word) if word >= 0 else Status.unknown("SIGCHLD is ignored, or another waited for it")
    kind = TaskLost if not status.known else TaskKilled if status.signal is not None else TaskExited
    return kind(pid, status, "within its set-up: no program was run")


def _with_argument(name: str, place: int, asked: tuple[Any, ...]) -> str:
    """The name of a step of the C child's, with what it was about.

    Args:
        name: of _STEPS.
        place: which stream, or which of the fds to keep, where it is about those.
        asked: what `_core.spawn` was given from argv on.
    """
    _argv, _envp, _cwd, stdio, kept, _others, _signals, _session, group, gid, groups, uid, _umask = asked
    about: dict[str, Callable[[], object]] = {
        "dup2": lambda: f"{stdio[place]}, {place}",
        "fcntl": lambda: kept[place],
        "setpgid": lambda: group,
        "setgroups": lambda: ", ".join(map(str, groups)),
        "setregid": lambda: gid,
        "setreuid": lambda: uid,
    }
    return f"{name}({about[name]()})" if name in about else name


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
