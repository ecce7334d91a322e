"""A program and what it started: ended together, counted together, and why it died."""

from __future__ import annotations

import os
import signal
import time

from .. import _core
from .._cgroup import CgroupDirectory
from .._errors import CloneError, ContextError
from .._flags import Namespace
from .end import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .cause import Cause
    from .tree import Members
    from .usage import Usage

_PR_SET_CHILD_SUBREAPER: Final = 36
_MARK: Final = "SYSCLONE_TREE"
# Adopted processes that were killed are reaped here; one that is stuck in the kernel is left for later.
_PATIENCE: Final = 2.0


class Tree(Ending):
    """The part of a Popen that knows of the program's descendants."""

    has_tree: bool = False
    _mark: bytes | None = None
    _started: float = 0.0
    _oom_kills: int | None = None

    def kill_tree(self) -> None:
        """Kill the program and everything that it started: SIGKILL, never by number.

        With a cgroup in the context: every process of the cgroup and of those below it, by cgroup.kill (Linux 5.14) where
        it is of version 2. With a new pid namespace: every process of it. Otherwise the living descendants, stopped first
        so that none of them forks away, each held by a pidfd; and with `tree=True` also those whose parents have ended.

        Raises:
            CloneError: one of them refused the signal: a program of another user's.
            ContextError: this program itself is in the context's cgroup.
        """
        if self.context.cgroup is not None:
            self._kill_cgroup()
        elif Namespace.PID in self.context.new:
            self.kill()
        else:
            self._kill_descendants()

    def terminate_tree(self, grace: float) -> bool:
        """Ask the program and everything that it started to end by SIGTERM, and kill what is still there after a while.

        Args:
            grace: seconds to wait for them to end.

        Returns:
            Whether they all ended by themselves.

        Raises:
            CloneError: one of them refused the signal.
            ContextError: this program itself is in the context's cgroup.
        """
        from .tree import Members

        deadline = time.monotonic() + grace
        late = False
        while True:
            with Members() as members:
                if not self._take_members(members) and self._ends_within(0):
                    return True
                if late:
                    break
                # The program first: it may end its children its own way. A stopped one would not hear of it.
                for number in (signal.SIGTERM, signal.SIGCONT):
                    self.send_signal(number)
                    members.send(number)
                gone = members.wait(grace) and self._ends_within(max(0.0, deadline - time.monotonic()))
                members.reap()
                members.check(signal.SIGTERM)
            # Those that were born meanwhile are asked too.
            grace = max(0.0, deadline - time.monotonic())
            late = not gone or not grace
        self.kill_tree()
        return False

    def usage(self, tree: bool = False) -> Usage:
        """What the program has used until now, or used in all when it has ended.

        Args:
            tree: whether to count what it started too.

        Returns:
            A Usage; `covers` says whose use it is, and `unseen` what it lacks.
        """
        from . import usage

        if tree and self.context.cgroup is not None:
            with CgroupDirectory(self.context.cgroup) as cgroup:
                return usage.of_cgroup(cgroup.fd, str(self.context.cgroup))
        self.poll()
        with self._pidfd_lock:
            if self._usage is not None:
                own = usage.of_rusage(self._usage, self._peak_before)
            elif self.pidfd >= 0:
                own = usage.of_process(self.pid, with_children=tree)
                own.covers = "the program" + (" and the children that it waited for" if tree else " alone")
            else:
                return usage.Usage({}, "the program", ["all: another waited for it"])
        if not tree:
            return own
        from .tree import Members

        with Members() as members:
            self._take_members(members)
            others = [usage.of_process(pid, with_children=True) for pid in members.pidfds]
        covers = f"{own.covers}, and {len(others)} descendants with theirs"
        unseen = [what for what in own.unseen if ":" in what]
        unseen += ["descendants that ended and were waited for by nobody"]
        if self._mark is None:
            unseen.append("descendants whose parents have ended (tree=True, or a cgroup, sees them)")
        return own.plus(others, covers, unseen)

    @property
    def cause(self) -> Cause | None:
        """Why it ended, as far as the kernel tells: `str()` gives it in words. None while it runs."""
        status = self.status
        if status is None:
            return None
        from .cause import find_cause

        seconds = self._usage[0] + self._usage[1] if self._usage is not None else None
        return find_cause(
            status, self.pid, self._started, self._sent, seconds, self._remains, self._what_the_cgroup_says()
        )

    def _kill_for_cancel(self) -> None:
        if self.has_tree:
            self.kill_tree()
        self.kill()

    # --- how

    def _keep_tree(self, environment: Any) -> dict[Any, Any]:
        """Adopt the program's orphans from now on, and mark what it starts; answers the environment with the mark."""
        import binascii

        _core.syscall("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        value = binascii.hexlify(os.urandom(16))
        self._mark = _MARK.encode() + b"=" + value
        return {**(os.environ if environment is None else environment), _MARK: value.decode()}

    def _take_members(self, members: Members) -> int:
        """Take who comes from the program; how many are new."""
        if self.context.cgroup is not None:
            with CgroupDirectory(self.context.cgroup) as cgroup:
                new = members.add_cgroup(cgroup.fd)
                if os.getpid() in members.pidfds:
                    raise _inside(self.context.cgroup)
                return new
        new = 0
        with self._pidfd_lock:
            if self.pidfd >= 0:
                new += members.add_below(self.pid)
        if self._mark is not None:
            new += members.add_marked(self._mark, but=self.pid if self.pidfd >= 0 else 0)
            for pid in list(members.pidfds):
                new += members.add_below(pid)
        return new

    def _kill_descendants(self) -> None:
        from .tree import Members, freeze

        with Members() as members:
            top = os.dup(self.pidfd) if self.pidfd >= 0 else -1
            try:
                freeze(members, top, lambda: self._take_members(members))
                members.send(signal.SIGKILL)
                try:
                    self.kill()
                except PermissionError as e:
                    members.refused[self.pid] = e.errno or 0
                # Those whose parent was the program itself come to us with it.
                while self._mark is not None and not members.refused:
                    if not (members.wait(_PATIENCE) and self._ends_within(_PATIENCE) and self._take_members(members)):
                        break
                    members.send(signal.SIGKILL)
            finally:
                if top >= 0:
                    os.close(top)
            members.reap()
            members.check(signal.SIGKILL)

    def _kill_cgroup(self) -> None:
        from .tree import Members, processes_of_cgroup

        assert self.context.cgroup is not None
        with CgroupDirectory(self.context.cgroup) as cgroup, Members() as members:
            if os.getpid() in processes_of_cgroup(cgroup.fd):
                raise _inside(self.context.cgroup)
            try:
                fd = os.open("cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup.fd)
            except FileNotFoundError:
                # Version 1, or older: nobody is frozen, so until a look finds nobody new.
                while members.add_cgroup(cgroup.fd):
                    members.send(signal.SIGKILL)
                    members.check(signal.SIGKILL)
                    members.wait(_PATIENCE)
            else:
                try:
                    os.write(fd, b"1")
                finally:
                    os.close(fd)
        self._sent = int(signal.SIGKILL)

    def _what_the_cgroup_says(self) -> str:
        if self._oom_kills is None or self.context.cgroup is None:
            return ""
        from .usage import oom_kills

        try:
            with CgroupDirectory(self.context.cgroup) as cgroup:
                now = oom_kills(cgroup.fd)
        except CloneError:
            return ""
        if now is None or now <= self._oom_kills:
            return ""
        return f"oom_kill of cgroup {self.context.cgroup} went from {self._oom_kills} to {now}"


def _inside(cgroup: str | int) -> ContextError:
    return ContextError(
        f"cgroup={cgroup!r}: this program is in it, and would be killed too\n"
        "try: a cgroup of its own for what is to be ended together",
        field="cgroup",
    )
