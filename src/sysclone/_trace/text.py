"""Events as strace writes them with -f -o: a line a call, an end in +++ … +++."""

from __future__ import annotations

import functools
import os

from .._errors import error_name
from .._flags import CSIGNAL, Clone, format_flags, format_signal
from .events import KERNEL_ERRNOS, AttachEvent, CloneEvent, ExecEvent, ExitEvent, SetnsEvent, UnshareEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .events import Event

# strace's own limits (-s): letters of an argument, and arguments of a program.
MOST_LETTERS: Final = 32
MOST_ARGUMENTS: Final = 32
_ESCAPES: Final = {9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_AT_FLAGS: Final = {0x1000: "AT_EMPTY_PATH", 0x100: "AT_SYMLINK_NOFOLLOW", 0x10000: "AT_EXECVE_CHECK"}
_AT_FDCWD: Final = -100
_INTERRUPTED: Final = "To be restarted"
# The old call has no room for these, and its low byte is the signal.
_OLD_CALL: Final = 0xFFFFFFFF & ~CSIGNAL
_PARENT_TID: Final = int(Clone.PARENT_SETTID)
_PIDFD: Final = int(Clone.PIDFD)
_TLS: Final = int(Clone.SETTLS)
_CGROUP: Final = int(Clone.INTO_CGROUP)
_CHILD_TID: Final = int(Clone.CHILD_SETTID | Clone.CHILD_CLEARTID)


def line(event: Event) -> str:
    """An event as a line of strace's, without the newline."""
    return f"{event.tid:<5} {words(event)}"


def words(event: Event) -> str:
    """The same without the task's id."""
    if isinstance(event, ExitEvent):
        return _exit(event)
    if isinstance(event, AttachEvent):
        argv = f" [{', '.join(quote(one) for one in event.argv)}]" if event.argv else ""
        return f"--- attached: {event.name or '?'}, pid {event.pid}{argv} ---"
    outcome = _outcome(event.result, event.errno)
    if outcome is None:
        return f"{event.call}({_arguments(event)} <unfinished ...>) = ?"
    return f"{event.call}({_arguments(event)}) = {outcome}"


def _arguments(event: CloneEvent | UnshareEvent | SetnsEvent | ExecEvent) -> str:
    if isinstance(event, CloneEvent):
        if event.call == "clone3":
            return _clone3(event)
        if event.call == "task_newtask":
            return f"flags={_flags(event.struct[0])}"
        return _clone(event) if event.call == "clone" else ""
    if isinstance(event, UnshareEvent):
        return _flags(event.word)
    if isinstance(event, SetnsEvent):
        return f"{event.fd}, {_flags(event.word)}"
    return _exec(event)


def _exit(event: ExitEvent) -> str:
    if event.superseded_by is not None:
        return f"+++ superseded by execve in pid {event.superseded_by} +++"
    status = event.status
    if status.signal is not None:
        return f"+++ killed by {format_signal(status.signal)}{' (core dumped)' if status.core_dumped else ''} +++"
    return f"+++ exited with {status.exit_code} +++" if status.known else "+++ ended, and how was not seen +++"


def _outcome(result: int | None, errno: int | None) -> str | None:
    if errno is None:
        return None if result is None else str(result)
    if errno in KERNEL_ERRNOS:
        return f"? {KERNEL_ERRNOS[errno]} ({_INTERRUPTED})"
    return f"-1 {error_name(errno)} ({os.strerror(errno)})"


@functools.lru_cache(512)
def _flags(flags: int) -> str:
    """Names, and what has none with a remark, as strace has it."""
    known = format_flags(flags)
    rest = flags & ~sum(int(flag) for flag in Clone if flags & flag)
    if rest and rest == flags:
        return f"{flags:#x} /* CLONE_??? */"
    return known


_old_flags = functools.lru_cache(512)(format_flags)


def _address(address: int) -> str:
    return f"{address:#x}" if address else "NULL"


def _clone(event: CloneEvent) -> str:
    if not event.words:
        return ""
    flags, pidfd, child_tid, parent_tid, signal, stack, _, tls, *_ = event.struct
    told = [f"child_stack={_address(stack)}", f"flags={_old_flags(flags & _OLD_CALL, signal)}"]
    if flags & _PARENT_TID:
        told.append(f"parent_tid={_written(event.parent_tid, parent_tid)}")
    elif flags & _PIDFD:
        told.append(f"pidfd={_written(event.pidfd, pidfd)}")
    if flags & _TLS:
        told.append(f"tls={_address(tls)}")
    if flags & _CHILD_TID:
        told.append(f"child_tidptr={_address(child_tid)}")
    return ", ".join(told)


def _written(value: int | None, address: int) -> str:
    return _address(address) if value is None else f"[{value}]"


def _clone3(event: CloneEvent) -> str:
    if not event.struct:
        address, size = (event.words or (0, event.size))[:2]
        return f"{_address(address)}, {size}"
    flags, pidfd, child_tid, parent_tid, signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup = event.struct
    told = [f"flags={_flags(flags)}"]
    if flags & _PIDFD:
        told.append(f"pidfd={_address(pidfd)}")
    if flags & _CHILD_TID:
        told.append(f"child_tid={_address(child_tid)}")
    if flags & _PARENT_TID:
        told.append(f"parent_tid={_address(parent_tid)}")
    told += [f"exit_signal={format_signal(signal) if signal else 0}", f"stack={_address(stack)}"]
    told.append(f"stack_size={stack_size:#x}" if stack_size else "stack_size=0")
    if flags & _TLS:
        told.append(f"tls={_address(tls)}")
    if set_tid or set_tid_size:
        pids = f"[{', '.join(map(str, event.set_tid))}]" if event.set_tid else _address(set_tid)
        told += [f"set_tid={pids}", f"set_tid_size={set_tid_size}"]
    if cgroup or flags & _CGROUP:
        told.append(f"cgroup={cgroup}")
    return f"{{{', '.join(told)}}}{_clone3_answer(event)}, {event.size}"


def _clone3_answer(event: CloneEvent) -> str:
    """What the kernel wrote to where the struct points."""
    told = [f"{name}=[{value}]" for name in ("pidfd", "parent_tid") if (value := getattr(event, name)) is not None]
    return f" => {{{', '.join(told)}}}" if told and event.result is not None else ""


def _exec(event: ExecEvent) -> str:
    at = event.call == "execveat"
    path, argv, env = event.words[at : at + 3] if event.words else (0, 0, 0)
    told = [] if not at else ["AT_FDCWD" if event.dirfd == _AT_FDCWD else str(event.dirfd)]
    told.append(_address(path) if event.path is None else quote(event.path, most=4095))
    told.append(_address(argv) if event.argv is None else _list(event))
    count = event.env_count
    told.append(_address(env) + ("" if count is None else f" /* {count} var{'' if count == 1 else 's'} */"))
    if at:
        names = [name for bit, name in _AT_FLAGS.items() if event.at_flags & bit]
        told.append("|".join(names) or f"{event.at_flags:#x}" if event.at_flags else "0")
    return ", ".join(told)


def _list(event: ExecEvent) -> str:
    argv = event.argv or ()
    shown = [quote(one) for one in argv[:MOST_ARGUMENTS]]
    if len(argv) > MOST_ARGUMENTS or event.truncated:
        shown.append("...")
    return f"[{', '.join(shown)}]"


def quote(text: str, most: int = MOST_LETTERS) -> str:
    """A string as C would have it, cut after so many bytes."""
    data = os.fsencode(text)
    if data[:most].isascii() and text[:most].isprintable() and '"' not in text and "\\" not in text:
        shown = data[:most].decode("ascii")
    else:
        shown = "".join(_letter(data, i) for i in range(min(len(data), most)))
    return f'"{shown}"...' if len(data) > most else f'"{shown}"'


def _letter(data: bytes, i: int) -> str:
    byte = data[i]
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    if 32 <= byte < 127:
        return chr(byte)
    digit_follows = i + 1 < len(data) and 48 <= data[i + 1] <= 57
    return f"\\{byte:03o}" if digit_follows else f"\\{byte:o}"
