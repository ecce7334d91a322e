"""Other ids and capabilities for a task, and none for its creator."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from features import requires
from helpers import AS_NOBODY, SOURCES, TESTS, ended, in_subprocess

import sysclone
from sysclone import Capabilities, CloneError, Context, ContextError, Namespace, Namespaces, Share

LIGHT = Share.VM
KINDS = [pytest.param(Share.VM, id="light"), pytest.param(Share(0), id="copied")]
SETS = {
    "CapEff": "effective",
    "CapPrm": "permitted",
    "CapInh": "inheritable",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}


def status(task="thread-self"):
    with open(f"/proc/{task}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def sets():
    from sysclone._context.capabilities import names

    fields = status()
    return {name: names(int(fields[field], 16)) for field, name in SETS.items()}


def dumpable():
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)


@requires("root")
@pytest.mark.parametrize("share", KINDS)
def test_a_function_has_other_ids_and_the_creator_its_own(share):
    """uid, gid and groups are the task's, real, effective and saved; no thread of the creator's has changed."""
    before = os.getresuid(), os.getresgid(), os.getgroups()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    context = Context(share=share, uid=1234, gid=2345, groups=(3, 4))

    ids = context.call(lambda: (os.getresuid(), os.getresgid(), sorted(os.getgroups())))

    assert ids == ((1234,) * 3, (2345,) * 3, [3, 4])
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
    assert status(f"self/task/{thread.native_id}")["Uid"].split() == [str(os.getuid())] * 4
    stop.set()
    thread.join()


@requires("root")
def test_a_program_has_other_ids():
    """As a step of a program's, by the context alone."""
    context = Context(uid=1234, gid=2345, groups=())
    done = sysclone.run(["sh", "-c", "id -u; id -g; id -G"], context=context, capture_output=True, text=True)

    assert done.stdout.split() == ["1234", "2345", "2345"]


@requires("root")
@pytest.mark.parametrize("share", KINDS)
def test_capabilities_are_those_that_were_named(share):
    """Names alone are those in all five sets and no others, over a change of uid too; the creator keeps its own."""
    before = sets()
    for uid in (None, 1234):
        context = Context(share=share, uid=uid, capabilities=("NET_ADMIN", "cap_chown"))
        assert context.call(sets) == dict.fromkeys(SETS.values(), frozenset({"NET_ADMIN", "CHOWN"}))
    assert sets() == before


@requires("root")
def test_single_sets_are_as_asked_and_the_rest_as_the_kernel_makes_them():
    """A set that is None stays; one that is empty is empty."""
    before = sets()
    fewer = Capabilities(effective=(), bounding=("KILL",))

    got = Context(share=LIGHT, capabilities=fewer).call(sets)

    assert got == {**before, "effective": frozenset(), "bounding": frozenset({"KILL"})}


@requires("root")
def test_capabilities_last_over_exec():
    """Ambient ones are those of a program that nobody owns."""
    context = Context(uid=65534, gid=65534, groups=(), capabilities=("NET_BIND_SERVICE",))
    done = sysclone.run(["grep", "Cap", "/proc/self/status"], context=context, capture_output=True, text=True)

    assert {line.split()[1] for line in done.stdout.splitlines()} == {f"{1 << 10:016x}"}


@requires("root")
def test_securebits_and_no_new_privs_are_the_tasks():
    """Both are set in the task, with another uid too, and not in the creator."""
    securebits = 0x2F  # noroot, no setuid fixup, keepcaps off and locked
    context = Context(share=LIGHT, uid=1234, securebits=securebits, no_new_privs=True)

    def look():
        return ctypes.CDLL(None).prctl(27, 0, 0, 0, 0), status()["NoNewPrivs"], sets()["permitted"]

    bits, no_new_privs, permitted = context.call(look)

    assert bits & 0x0F == securebits & 0x0F
    assert (no_new_privs, permitted) == ("1", frozenset())
    assert (ctypes.CDLL(None).prctl(27, 0, 0, 0, 0), status()["NoNewPrivs"]) == (0, "0")


@requires("nobody")
def test_each_refusal_names_its_step():
    """Without privilege each step fails by its name and its argument, from each kind of task; nothing is left running."""
    in_subprocess(
        """
        import os, sysclone
        from sysclone import Capabilities, CloneError, Context, Share
        for fields, step, name in (
            (dict(uid=0), "setresuid(0)", "CAP_SETUID"),
            (dict(gid=0), "setresgid(0)", "CAP_SETGID"),
            (dict(groups=(1, 2)), "setgroups(1, 2)", "CAP_SETGID"),
            (dict(securebits=1), "prctl(PR_SET_SECUREBITS, 0x1)", "CAP_SETPCAP"),
            (dict(capabilities=("KILL",)), "prctl(PR_CAPBSET_DROP)", "CAP_SETPCAP"),
            (dict(capabilities=Capabilities(permitted=("KILL",))), "capset", "permitted"),
        ):
            for act in (
                lambda: Context(share=Share.VM, **fields).call(os.getpid),
                lambda: Context(share=Share.VM, **fields).start(os.getpid).result(),
                lambda: Context(**fields).call(os.getpid),
                lambda: sysclone.run(["true"], context=Context(**fields)),
            ):
                try:
                    act()
                except PermissionError as error:
                    assert isinstance(error, CloneError)
                    assert error.step == step, error.step
                    assert name in str(error), str(error)
                else:
                    raise SystemExit(f"{fields} was let")
        assert Context(share=Share.VM, no_new_privs=True).call(os.getuid) == 65534
        for keywords, step, name in (
            (dict(user=0), "setreuid(0)", "CAP_SETUID"),
            (dict(group=0), "setregid(0)", "CAP_SETGID"),
            (dict(extra_groups=[1, 2]), "setgroups(1, 2)", "CAP_SETGID"),
            (dict(process_group=1), "setpgid(1)", "process group 1 is of another session"),
        ):
            try:
                sysclone.run(["true"], **keywords)
            except PermissionError as error:
                assert error.step == step, error.step
                assert name in str(error), str(error)
            else:
                raise SystemExit(f"{keywords} was let")
        """,
        as_nobody=True,
    )


def test_wrong_values_are_refused_at_their_field():
    """Ids out of range, names that are none, sets that are not within others."""
    for fields, field in (
        ({"uid": -1}, "uid"),
        ({"uid": 2**32 - 1}, "uid"),
        ({"gid": True}, "gid"),
        ({"groups": (1, -2)}, "groups"),
        ({"groups": 5}, "groups"),
        ({"capabilities": ("EVERYTHING",)}, "capabilities"),
        ({"capabilities": 7}, "capabilities"),
        ({"securebits": 0x1000}, "securebits"),
    ):
        with pytest.raises(ContextError) as caught:
            Context(**fields)
        assert caught.value.field == field
    with pytest.raises(ContextError, match="not permitted"):
        Capabilities(effective=("KILL",), permitted=())


def test_contexts_with_credentials_are_values():
    """They compare, hash and pickle as what they say."""
    import pickle

    one = Context(uid=1, groups=[1, 2], capabilities={"KILL"}, uid_map=[(0, 0, 1)], new=Namespace.USER)
    two = pickle.loads(pickle.dumps(one))

    assert one == two
    assert hash(one) == hash(two)
    assert one != one.replace(uid=2)
    assert "uid=1" in repr(one)


# --- dumpable


@requires("root")
def test_memory_is_not_dumpable_while_a_stranger_shares_it():
    """While tasks with other ids share the memory, nobody may look in; when the last has ended, it is as before."""
    assert dumpable() == 1
    reading, writing = os.pipe()
    with Context(share=LIGHT, uid=1234).start(os.read, reading, 1) as task:
        assert dumpable() == 0
        assert Context(share=LIGHT, uid=1234).call(dumpable) == 0
        assert dumpable() == 0
        os.write(writing, b"x")
        task.result()
        assert dumpable() == 1
    assert sysclone.call(dumpable) == 1
    sysclone.run(["true"], context=Context(uid=1234))
    assert dumpable() == 1
    os.close(reading)
    os.close(writing)


@requires("root", "user_namespaces")
def test_memory_is_not_dumpable_while_a_task_is_in_another_user_namespace():
    """Whoever is root in there could read this memory through the task."""
    with Namespaces.new(Namespace.USER) as held:
        assert Context(share=LIGHT, join=held).call(dumpable) == 0
    assert dumpable() == 1


# --- dying together


@requires("root")
@pytest.mark.parametrize(
    "fields", ["uid=1234", "gid=1234", "capabilities=('KILL',)", "uid=1234, capabilities=('KILL',)"]
)
def test_a_task_with_other_ids_dies_with_its_creator(fields):
    """The kernel forgets the death signal at each change of credentials; the task has asked again."""
    script = f"""
        import os, sys, time, sysclone
        from sysclone import Context, Share
        task = Context(share=Share.VM, {fields}).start(time.sleep, 60)
        print(task.pid, flush=True)
        time.sleep(60)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(TESTS)])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as program:
        task = os.pidfd_open(int(program.stdout.readline()))
        try:
            program.kill()
            assert ended(task)
        finally:
            if not ended(task, 0):
                signal.pidfd_send_signal(task, signal.SIGKILL)
            os.close(task)


def test_the_preamble_of_nobody_is_nobodys():
    """What the tests call nobody has no privilege, and may be looked at by its own kind."""
    out = in_subprocess(
        "import os\nprint(os.getresuid(), os.getgroups(), os.stat('/proc/self').st_uid)", as_nobody=True
    )

    assert out.split("\n")[0] == "(65534, 65534, 65534) [] 65534"
    assert "setresuid" in AS_NOBODY
    assert issubclass(CloneError, OSError)
