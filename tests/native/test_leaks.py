"""Leak loops: each entry of the extension, called a few hundred times, keeps no memory and no fd."""

from __future__ import annotations

import os

import pytest
from features import requires
from helpers import NO_QUARANTINE, in_subprocess

from sysclone import _core

BOUND = 0.25
"""KiB a call that the resident memory may grow by: an unfreed page or stack a call is 4 or more. What is smaller than
that is for the sanitizers to find."""

CALLS = 300

SETUP = """
import ctypes, gc, mmap, os, resource, signal, socket, sys
import sysclone, sysclone._call, sysclone._popen.popen
from sysclone import _core as core
from sysclone import Context, Share

os.environ.pop("LD_PRELOAD", None)  # the sanitizers are in this program, and take long to load in each that it starts
word = ctypes.c_uint32(5)
at = ctypes.addressof(word)
light = Context.light().plan("light")
copied = Context().plan("copied")
program = Context().plan("program")
mine = core.pidfd_open(os.getpid(), 0)
names = os.open("/proc/self/ns/uts", os.O_RDONLY)
null = os.open("/dev/null", os.O_RDONLY)
page = mmap.mmap(-1, 4096)
block = mmap.mmap(-1, 16384)
names_of_memory = os.memfd_create("leaks")
os.ftruncate(names_of_memory, 65536)
spare = mmap.mmap(-1, 8192)
where = ctypes.addressof(ctypes.c_char.from_buffer(spare))
stack = ctypes.addressof(ctypes.c_char.from_buffer(block))
tids = b"".join(pid.to_bytes(4, sys.byteorder) for pid in (os.getpid(), os.getppid(), 1 << 22))
leaders = b"".join(place.to_bytes(4, sys.byteorder) for place in (0, 1, 2))
VM_VFORK = 0x4100
P_PID, P_PIDFD, WEXITED, WALL, WNOWAIT = 1, 3, 4, 0x40000000, 0x1000000

def refused(function, *arguments):
    try:
        function(*arguments)
    except (OSError, ValueError, TypeError, BufferError):
        return
    raise SystemExit(f"{function} was not refused")

def reap(pid):
    core.waitid(P_PID, pid, WEXITED | WALL)

def raises():
    raise KeyError("x")

def starts(*function, start=core.start):
    job = start(light, *function)
    try:
        job.wait(10)
        job.fileno()
        job.done()
        job.ended()
        try:
            job.result()
        except (KeyError, sysclone.SyscloneError):
            pass
    finally:
        job.close()
        del job  # the exception that it keeps has this frame in its traceback

def bells():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    bell = core.Bell(fd)
    job = core.start(light, int)
    bell.heed(job, 7)
    job.wait(10)
    assert bell.ended() == [7] and bell.ended() == [] and os.eventfd_read(fd) == 1
    bell.heed(job, 8)
    bell.heed(job, 9)
    assert bell.ended() == [9]
    bell.heed(job, 1)
    bell.hush(job)
    refused(bell.hush, 5)
    refused(bell.heed, None, 5)
    refused(core.Bell, "x")
    bell.heed(job, 1)
    bell.close()
    os.close(fd)

def calls(*function):
    try:
        core.light_call(light, *function)
    except (KeyError, sysclone.SyscloneError):
        pass

def copies(way, ranges=()):
    page[:] = bytes(4096)
    pid, pidfd = core.copied(copied, way, page, ranges)
    if pid == 0:
        os._exit(0)
    core.waitid(P_PIDFD, pidfd, WEXITED | WALL)
    os.close(pidfd)

def spawns(path, setup=None, envp=None, cwd=None, groups=None):
    fds = (-1, -1, -1)
    pid, pidfd, step, *_ = core.spawn(
        program, [path], [b"true", b"x" * 4096], envp, cwd, fds, (null,), True, True, False, -1, -1, groups, -1, -1, setup
    )
    if step == 0:
        reap(pid)
        os.close(pidfd)

def clones3(size=88):
    reap(core.clone3(VM_VFORK, 0, 0, 0, 17, stack, 16384, 0, (), 0, size, core.ENTRY_EXIT, 0))

def forks(function, *arguments):
    pid = function(*arguments)
    if pid == 0:
        os._exit(0)
    reap(pid)

def plans():
    one = core.Plan(256, 0, tids=(1, 2), stack_bytes=1 << 20, timeout_ns=5, uid_map=b"0 0 1", uid_helper=(b"/x", b"0"))
    refused(lambda: core.Plan(0, 0, gid_helper=()))
    refused(lambda: core.Plan(0, 0, joins=((1, "x"),)))
    one.tids, one.flags, one.joined, repr(one)
    refused(core.Plan, "x", 0)

def copies_at_once(way):
    page[:] = bytes(4096)
    pid, pidfd, *_ = core.copied_call(copied, way, page)
    if pid == 0:
        os._exit(0)
    os.close(pidfd)

def maps():
    one = core.Mapping(-1, 65536, shared=True)
    values: list[object] = []
    at, end = one.tell(iter([1, 1.5, None, True, "text", b"bytes"]), values, 16)
    assert end
    assert one.tell(iter([[], 2]), values, at) == (at, False)
    assert one.tell(iter([1 << 70]), values, at) == one.tell(iter(["x" * 70000]), values, at) == (at, False)
    refused(one.tell, iter([1]), values, 8)
    refused(one.tell, [1], values, 16)
    refused(one.tell, map(int, ["x"]), values, 16)
    view = one.view()[5:]
    view[:5] = b"hello"
    refused(one.close)
    view.release()
    one.close()
    memoryview(core.Mapping(names_of_memory, 65536))[0]
    refused(core.Mapping, -1, 0)
    refused(core.Mapping, null, 4096)

def timers():
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            core.kill_self_after(60_000_000_000)
        os._exit(0)
    reap(pid)

def packets():
    ours, theirs = core.socketpair()
    core.packet_send(ours, b"x" * 2000)
    data, fds = core.packet_receive(theirs, 65536)
    assert (len(data), fds) == (2000, [])
    with socket.socket(fileno=ours) as sender:
        socket.send_fds(sender, [b"y"], [null] * 7)
        data, fds = core.packet_receive(theirs, 65536)
        [os.close(fd) for fd in fds]
        assert (data, len(fds)) == (b"y", 7)
        refused(core.packet_receive, theirs, 65536)
        refused(core.packet_receive, theirs, 0)
    assert core.packet_receive(theirs, 10) == (b"", [])
    refused(core.packet_send, theirs, b"z")
    os.close(theirs)

def buries():
    if sys.version_info >= (3, 13):
        assert core.bury_handles(sys.modules["_thread"]._make_thread_handle(5), 5) == 0
        assert core.bury_handles(sys.modules["_thread"]._make_thread_handle(5), 6) == -1
        done = sys.modules["_thread"]._make_thread_handle(5)
        assert core.bury_handle(done) and done.is_done() and not core.bury_handle(done)

HOOKS = (sysclone.Cancelled, sysclone._call._clone_failed, sysclone._call._ended, sysclone._call._absorb,
         sysclone._call._bury_threads, sysclone._call._shield())

HELD = core.Plan(0x10000100, 17, deny_setgroups=True)
REFUSED = core.Plan(0x10000100, 17, uid_map=b"nonsense")

def holds():
    reading, writing = os.pipe()
    try:
        refused(core.hold, REFUSED, reading)
        refused(core.hold, core.Plan(0x100, 17, joins=((0x40000000, null),)), reading)
        pid, pidfd, stack = core.hold(HELD, reading)
    finally:
        os.close(reading), os.close(writing)
    core.waitid(P_PIDFD, pidfd, WEXITED | WALL)
    os.close(pidfd)

def later():
    pid = core.clone3(VM_VFORK, 0, 0, 0, 17, stack, 16384, 0, (), 0, 88, core.ENTRY_EXIT, 0)
    pidfd = core.pidfd_open(pid, 0)
    core.waitid(P_PIDFD, pidfd, WEXITED | WALL | WNOWAIT)
    core.reap_later(pidfd, bytes(4096))
    core.reap_pending()

def mounted():
    if os.geteuid() == 0:
        os.close(core.detached_mount("tmpfs"))

def traces(*command):
    tracer = core.Tracer(0, False)
    pid, pidfd, step, *_ = core.spawn(
        program, [b"/bin/true"], [b"true"], None, None, (-1, -1, -1), (), True, True, False, -1, -1, None, -1, -1, tracer.enter
    )
    while tracer.read(-1, 100) is not None:
        pass
    tracer.close()
    if pid:
        reap(pid)
        os.close(pidfd)
    refused(tracer.enter)
    other = core.Tracer(2, True)
    other.follow([1 << 22, 0])
    other.command(2)
    other.read(1000, 1)
    other.close()

def sends():
    core.pidfd_send_signal(mine, 0, 0)
    refused(core.pidfd_send_signal, -1, 0, 0)
"""

LOOPS = {
    "Bell": "bells()",
    "ENTRY_EXIT": "clones3()",
    "Job": "starts(int)",
    "Mapping": "maps()",
    "Plan": "plans()",
    "address_of": "core.address_of(block); refused(core.address_of, 5)",
    "Tracer": "traces(); refused(core.Tracer, 'x', 0)",
    "bury_dead": "core.bury_dead()",
    "bury_handle": "buries(); refused(core.bury_handle, None)",
    "bury_handles": "buries(); refused(core.bury_handles, None, 5)",
    "clone": "reap(core.clone(VM_VFORK | 17, stack + 16384, 0, 0, 0, core.ENTRY_EXIT, 0)); "
    "refused(core.clone, 1 << 16, 0, 0, 0, 0, 0, 0); forks(core.clone, 17, 0, 0, 0, 0, 0, 0)",
    "clone3": "clones3(); refused(clones3, 63); forks(core.clone3, 0, 0, 0, 0, 17, 0, 0, 0, (), 0, 88, 0, 0)",
    "copied": "copies(0); copies(1); copies(2); refused(core.copied, copied, 0, b'read only'); "
    "copies(0, ((where, 4096, 10, 11),)); "
    "refused(core.copied, copied, 0, page, ((1, 1, 10, 11),)); refused(core.copied, copied, 0, page, (5,))",
    "copied_call": "copies_at_once(0); copies_at_once(2); refused(core.copied_call, copied, 0, b'read only')",
    "died": "core.died(0); refused(core.died, None)",
    "exchange": "core.exchange(block, 0, 1, 1); refused(core.exchange, block, 1 << 20, 0, 0)",
    "finalizing": "core.finalizing()",
    "groups": "core.groups(tids, leaders, (1, 2, 3, 4, 5, 6)); refused(core.groups, tids, leaders[:4], (1,)); "
    "refused(core.groups, tids, leaders, (9,))",
    "detached_mount": "refused(core.detached_mount, 'no such type'); mounted()",
    "futex_wait": "core.futex_wait(at, 4, 0); refused(core.futex_wait, at, 5, 0)",
    "futex_wake": "core.futex_wake(at, 1); refused(core.futex_wake, 1, 1)",
    "gettid": "core.gettid()",
    "hold": "holds()",
    "hooks": "core.hooks(*HOOKS)",
    "kcmp": "core.kcmp(os.getpid(), os.getpid(), 1, 0, 0); refused(core.kcmp, -1, -1, 1, 0, 0)",
    "death_signal": "core.death_signal(0)",
    "kill_self_after": "timers()",
    "light_call": "calls(bytes, 65536); calls(raises); calls(os._exit, 3); refused(core.light_call, light)",
    "light_due": "core.light_call(light, core.light_due, 10**18); refused(core.light_due, 5); "
    "refused(core.light_call, light, core.light_due, -1)",
    "light_rearm": "core.light_rearm(); core.light_call(light, core.light_rearm)",
    "packet_receive": "packets()",
    "packet_send": "packets(); refused(core.packet_send, null, b'x')",
    "pidfd_getfd": "os.close(core.pidfd_getfd(mine, null, 0)); refused(core.pidfd_getfd, mine, 9999, 0)",
    "pidfd_info": "core.pidfd_info(mine, 7); refused(core.pidfd_info, null, 7)",
    "pidfd_open": "os.close(core.pidfd_open(os.getpid(), 0)); refused(core.pidfd_open, -1, 0)",
    "pidfd_send_signal": "sends()",
    "pool_after_fork": "forks(os.fork)",
    "pool_drain": "core.pool_drain(0.0); refused(core.pool_drain, None)",
    "pool_stop": "core.pool_stop()",
    "pool_info": "core.pool_info()",
    "probe_clone": "core.probe_clone(0x100); core.probe_clone(0x100 | 1 << 16)",
    "probe_clone3": "core.probe_clone3(0x100, 0); core.probe_clone3(0x1100, 17); core.probe_clone3(1 << 16, 0)",
    "reap_later": "later()",
    "read_files": "core.read_files((b'/proc/self/stat', b'/no/such', b'/proc/self/maps'), 1 << 16); "
    "refused(core.read_files, ('x',), 1); refused(core.read_files, (), 0)",
    "read_links": "core.read_links((b'/proc/self/ns', b'/no/such'), (b'net', b'nothing')); refused(core.read_links, (1,), ())",
    "reap_pending": "core.reap_pending()",
    "socketpair": "[os.close(fd) for fd in core.socketpair()]",
    "set_disposition": "core.set_disposition(10, True); core.set_disposition(10, False); refused(core.set_disposition, 99, True)",
    "setns": "refused(core.setns, names, 0x08000000); refused(core.setns, -1, 0)",
    "single_threaded": "core.single_threaded()",
    "spawn": "spawns(b'/bin/true'); spawns(b'/no/such'); spawns(b'/bin/true', raises); spawns(b'/bin/true', lambda: 0); "
    "spawns(b'/bin/true', None, [b'A=' + bytes(2000).replace(b'\\0', b'x')], b'/'); refused(spawns, b'/bin/true', None, 5)",
    "syscall": "core.syscall('prctl', 3, 0, 0, 0, 0); refused(core.syscall, 'close', -1); refused(core.syscall, 'x'); "
    "refused(core.syscall, 'capget', b'', 1.5); refused(core.syscall, 'capget', b'12345678', bytearray(24))",
    "timed_call": "core.timed_call(5.0, light, bytes, 65536)",
    "start": "starts(bytes, 65536); starts(raises); starts(os._exit, 3)",
    "start_soon": "starts(bytes, 65536, start=core.start_soon); starts(raises, start=core.start_soon)",
    "unshare": "core.unshare(0x400); refused(core.unshare, 1 << 60)",
    "unsupported": "core.unsupported()",
    "waitid": "refused(core.waitid, 1, 1 << 22, 4); clones3()",
}
"""What is called for each public name of the extension; answers and refusals both."""


def test_each_entry_has_its_loop():
    """The table names every public entry of the extension, and nothing else."""
    assert {name for name in dir(_core) if not name.startswith("_")} == set(LOOPS)


def grown(body, calls=CALLS):
    """KiB a call of resident memory that a loop keeps, and the number of fds, by a program of its own."""
    loop = f"def loop(count):\n    for _ in range(count):\n        {body}\n"
    measure = f"""
def look():
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))
    return kib, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

loop({max(calls // 3, 30)})
for _ in range(4):
    before = look()
    loop({calls})
    after = look()
    if after[2] <= before[2]:
        break  # else a helper thread has come, with a stack of its own
print((after[0] - before[0]) / {calls}, after[1] - before[1])
"""
    kib, fds = in_subprocess(SETUP + "kept = []\n" + loop + measure, seconds=50).split()
    return float(kib), int(fds)


@pytest.fixture(autouse=True)
def no_quarantine(monkeypatch):
    """The address sanitizer's allocator, if it is there, gives what is freed out again at once."""
    if options := os.environ.get("ASAN_OPTIONS"):
        monkeypatch.setenv("ASAN_OPTIONS", f"{options}:{NO_QUARANTINE}")


@requires("pidfd", "pidfd_getfd", "pidfd_info", "kcmp")
@pytest.mark.parametrize("name", LOOPS)
def test_it_keeps_nothing(name):
    """Calls and refused calls of one entry leave less than BOUND KiB a call behind, and no fd."""
    kib, fds = grown(LOOPS[name])
    if kib >= BOUND:  # memory that is touched once for all is no leak: over more calls it is less for each
        kib, fds = grown(LOOPS[name], 5 * CALLS)

    assert fds == 0
    assert kib < BOUND, f"{kib:.2f} KiB a call"


@pytest.mark.parametrize("kept", ["bytes(4096)", "object.__new__(type('x', (), dict(a=bytes(1024))))"])
def test_a_leak_is_seen(kept):
    """A loop that keeps a KiB or more a call is found out."""
    assert grown(f"kept.append({kept})")[0] > BOUND


def test_a_kept_fd_is_seen():
    """A loop that keeps an fd a call is found out."""
    assert grown("os.dup(0)", 90)[1] == 90
