"""explain's verdict against the running kernel's own, on many random combinations of switches and exit signals.

Each combination is really cloned, in a process made for that: siblings are the children of its parent, exit signals kill,
and the end of a pid namespace's init sets SIGCHLD to ignored in a handler table that is shared with it.

Without privilege, the combinations have no namespaces in them: those the kernel refuses for who asks, not for what.
"""

from __future__ import annotations

import inspect
import os
import random
import struct
import subprocess
import sys
from errno import EBADF, errorcode

import pytest
from features import have, requires

from sysclone import _core, _kernel, explain
from sysclone._flags import RULES, Clone, Namespace, Rule, broken_rules, format_flags, format_signal

CASES = int(os.environ.get("SYSCLONE_VERDICT_CASES", "50000"))
SEED = int(os.environ.get("SYSCLONE_VERDICT_SEED", "20"))
SECONDS = 300
"""How long the kernel may take for each call; half a minute is what it takes on two cores that are not idle."""

NOT_ASKED = 255
FLAGS = [int(flag) for flag in Clone]
NAMESPACES = sum(int(kind) for kind in Namespace)
GROUPS = [0, int(Clone.VM), int(Clone.VM | Clone.SIGHAND), int(Clone.VM | Clone.SIGHAND | Clone.THREAD)]

Case = tuple[int, int]


def random_flags(rnd: random.Random) -> int:
    """A few switches, or many, or a few beside those that others need, or a bit that may mean nothing."""
    kind = rnd.random()
    if kind < 0.10:
        flags = sum(flag for flag in FLAGS if rnd.random() < 0.5)
    elif kind < 0.30:
        flags = sum(rnd.sample(FLAGS, rnd.randint(3, 8)))
    else:
        flags = sum(rnd.sample(FLAGS, rnd.randint(0, 4)))
    if kind > 0.60:
        flags |= rnd.choice(GROUPS)
    if kind > 0.95:
        flags |= 1 << rnd.randrange(64)
    if flags & Clone.NEWNET and rnd.random() < 0.8:
        flags &= ~Clone.NEWNET  # by far the most expensive namespace
    # Newer than the kernels at hand, and so seldom more than another way to be unknown.
    young = int(Clone.AUTOREAP | Clone.NNP | Clone.PIDFD_AUTOKILL | Clone.EMPTY_MNTNS)
    if flags & young & ~_kernel.known_flags() and rnd.random() < 0.9:
        flags &= ~young
    return flags if have("root") else flags & ~NAMESPACES


def random_signal(rnd: random.Random, call: str) -> int:
    """Mostly what there is; sometimes what there is not, up to what the call has room for."""
    kind = rnd.random()
    if kind < 0.65:
        return 0 if kind < 0.4 else 17
    if kind < 0.9:
        return rnd.randint(1, 64)
    odd = [65, 127, 128, 200, 255] if call == "clone" else [65, 128, 255, 256, 256 + 17, (1 << 16) + 17, (1 << 31) - 1]
    return rnd.choice(odd)


def cases(call: str) -> list[Case]:
    """The combinations to try; the same for the same seed."""
    rnd = random.Random(f"{SEED} {call}")
    return [(random_flags(rnd), random_signal(rnd, call)) for _ in range(CASES)]


def prober() -> None:  # pragma: no cover
    """Ask the kernel about each case on stdin; write one errno each. Runs alone, in a process of its own.

    Its memory is copied by most of the clones, so it has little: no site, and the extension without its package. This
    process only lets the kernel reap: siblings of the worker are its children.
    """
    import importlib.util
    import mmap
    import os
    import signal
    import struct
    import sys

    spec = importlib.util.spec_from_file_location("_core", sys.argv[3])
    _core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_core)
    wall, parent_or_thread = 0x40000000, 0x18000
    fatal = {signal.SIGKILL, signal.SIGSTOP, 32, 33}  # what cannot be ignored, or not by libc

    def probe(flags: int, exit_signal: int) -> int:
        if sys.argv[1] == "clone":
            return _core.probe_clone(flags | exit_signal)
        return _core.probe_clone3(flags, exit_signal, cgroup)

    def apart(flags: int, exit_signal: int) -> int:
        """In a process that may be killed or stopped by the exit signal, which is how it says yes."""
        pid = os.fork()
        if pid == 0:
            os._exit(probe(flags, exit_signal))
        stopped = False
        while True:
            status = os.waitpid(pid, os.WUNTRACED)[1]
            if not os.WIFSTOPPED(status):
                return 0 if stopped or os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            stopped = True
            os.kill(pid, signal.SIGCONT)

    try:
        cgroup = os.open(sys.argv[2], os.O_PATH | os.O_DIRECTORY)
    except OSError:
        cgroup = 0x7FFFFFFF
    asked = list(struct.iter_unpack("QQ", sys.stdin.buffer.read()))
    answers = mmap.mmap(-1, len(asked))
    answers[:] = b"\xff" * len(asked)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        for number in set(range(1, 65)) - fatal - {signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        for index, (flags, exit_signal) in enumerate(asked):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sent = (flags | exit_signal) & 0xFF if sys.argv[1] == "clone" else exit_signal
            alone = sent in fatal and not flags & parent_or_thread
            answers[index] = (apart if alone else probe)(flags, exit_signal)
        os._exit(0)
    # A worker that hangs has all its signals blocked, and would outlive whoever is waiting here.
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.alarm(int(sys.argv[4]))
    try:
        while True:
            os.waitpid(-1, wall)
    except ChildProcessError:
        sys.stdout.buffer.write(answers)


def own_cgroup() -> str:
    """This process's directory in the version 2 hierarchy, or "" without one."""
    with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as groups:
        where = [line.split()[4] for line in mounts if " - cgroup2 " in line]
        path = [line.strip()[3:] for line in groups if line.startswith("0::")]
    return where[0] + path[0] if where and path and have("root") else ""


def ask_the_kernel(call: str, asked: list[Case]) -> list[int]:
    """The kernel's errno for each case."""
    code = f"{inspect.getsource(prober)}\nprober()"
    words = b"".join(struct.pack("QQ", *case) for case in asked)
    command = [sys.executable, "-IS", "-c", code, call, own_cgroup(), _core.__file__, str(SECONDS)]
    done = subprocess.run(command, input=words, stdout=subprocess.PIPE, start_new_session=True, check=False)
    assert done.returncode == 0, f"seed {SEED}: the kernel was not done with {call} in {SECONDS} s"
    return list(done.stdout)


def describe(case: Case, call: str, kernel: int) -> str:
    """A difference, in words."""
    ours = explain(case[0], case[1], call)
    asked = f"{call}({format_flags(case[0])}, {format_signal(case[1])})"
    return f"{asked}: the kernel says {errorcode.get(kernel, kernel)}, explain {ours.errno} {' '.join(ours.reasons)}"


@pytest.mark.timeout(SECONDS + 60)
@requires("clone3")
@pytest.mark.parametrize("call", ["clone3", "clone"])
def test_the_verdict_is_the_kernels(call: str) -> None:
    """On tens of thousands of random combinations, explain and the running kernel do not differ once."""
    asked = cases(call)
    answers = ask_the_kernel(call, asked)
    assert len(answers) == len(asked) == CASES
    assert NOT_ASKED not in answers, f"seed {SEED}: died at {describe(asked[answers.index(NOT_ASKED)], call, 0)}"
    different = []
    for case, kernel in zip(asked, answers, strict=True):
        # With no cgroup to give, this is the answer to flags that are right.
        answer = 0 if kernel == EBADF and case[0] & Clone.INTO_CGROUP and not own_cgroup() else kernel
        if explain(case[0], case[1], call).errno != answer:
            different.append(describe(case, call, kernel))
    assert not different, f"seed {SEED}: {len(different)} of {CASES} differ:\n" + "\n".join(different[:20])


@requires("clone3")
@pytest.mark.parametrize("call", ["clone3", "clone"])
def test_the_combinations_put_every_rule_to_the_test(call: str) -> None:
    """Among the combinations are many that are valid, and for each rule some that break it alone."""
    dialect = _kernel.dialect()
    broken = [broken_rules(flags, exit_signal, call, dialect) for flags, exit_signal in cases(call)]
    valid = sum(not rules for rules in broken)
    assert 0.1 < valid / CASES < 0.9
    alone = {rules[0].breaks for rules in broken if len(rules) == 1}
    untried = [
        rule.reason for rule in RULES if call in rule.calls and can_be_alone(rule, call) and rule.breaks not in alone
    ]
    assert untried == []


def can_be_alone(rule: Rule, call: str) -> bool:
    """Whether a combination can break this rule and no other, here."""
    dialect = _kernel.dialect()
    if int(rule.flags) & ~dialect.known or (int(rule.flags) & NAMESPACES and not have("root")):
        return False
    pairs = [
        (one | other | group, number) for one in FLAGS for other in FLAGS for group in GROUPS for number in (0, 17, 65)
    ]
    return any(
        [found.breaks for found in broken_rules(flags, number, call, dialect)] == [rule.breaks]
        for flags, number in pairs
    )
