"""Seccomp filters: rules as a plain value, compiled by libseccomp, and what a program of the kernel's answers to one call."""

from __future__ import annotations

import os
import struct
from errno import errorcode

from .._errors import ContextError, Unsupported
from .._value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

# linux/seccomp.h
ACTIONS: Final = {"kill": 0x80000000, "kill_thread": 0, "trap": 0x00030000, "log": 0x7FFC0000, "allow": 0x7FFF0000}
_ERRNO: Final = 0x00050000
_NUMBERS: Final = {name: number for number, name in errorcode.items()}
_COMPARISONS: Final = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6, "&": 7}
_MOST_INSTRUCTIONS: Final = 4096


class SeccompFilter(Value):
    """Rules for system calls by name, compiled by libseccomp (libseccomp.so.2) when a task is made.

    An action is "allow", "log", "kill" (the process), "kill_thread", "trap" (SIGSYS), or an errno by name: "EPERM". A rule's
    key is a call's name, or names in a tuple; its value is an action, or an action with conditions on arguments that must all
    hold: `("EPERM", (0, "==", 16))`, or with `"&"` a mask and the bits: `("EPERM", (0, "&", 0x7, 0x1))`.

    Args:
        default: what happens to calls without a rule, or whose conditions do not hold.
        rules: what happens to the others.

    Raises:
        ContextError: there is no such action or comparison.

    Needs no_new_privs, or CAP_SYS_ADMIN. See seccomp(2), seccomp_rule_add(3).
    """

    __slots__ = ("default", "rules")

    default: str
    rules: tuple[tuple[str, str, tuple[tuple[Any, ...], ...]], ...]

    def __init__(self, default: str, rules: Mapping[Any, Any] | None = None) -> None:
        found: list[tuple[str, str, tuple[tuple[Any, ...], ...]]] = []
        for names, what in (rules or {}).items():
            action, *conditions = (what,) if isinstance(what, str) else what
            for condition in conditions:
                if (
                    not isinstance(condition, (tuple, list))
                    or len(condition) not in (3, 4)
                    or condition[1] not in _COMPARISONS
                ):
                    raise _wrong(f"{condition!r} is no condition: (argument, one of {' '.join(_COMPARISONS)}, value)")
                if (len(condition) == 4) != (condition[1] == "&") or not 0 <= condition[0] <= 5:
                    raise _wrong(f"{condition!r}: arguments are 0 to 5, and '&' has a mask and the bits")
            _action(action)
            tests = tuple(tuple(each) for each in conditions)
            found += [(str(name), action, tests) for name in ((names,) if isinstance(names, str) else names)]
        _action(default)
        self._have(default=default, rules=tuple(found))

    def program(self) -> bytes:
        """The filter as the kernel takes it: an array of struct sock_filter.

        Raises:
            Unsupported: there is no libseccomp here.
            ContextError: there is no such system call, or libseccomp refuses a rule.
        """
        return _compile(self)


def seccomp(value: object, field: str) -> SeccompFilter | bytes | None:
    """Rules, or a program that is ready."""
    if value is None or isinstance(value, SeccompFilter):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        program = bytes(value)
        if program and len(program) % 8 == 0 and len(program) // 8 <= _MOST_INSTRUCTIONS:
            return program
    raise ContextError(
        f"{field}: a SeccompFilter is needed, or 1 to {_MOST_INSTRUCTIONS} instructions of 8 bytes (struct sock_filter)",
        field,
    )


def _action(name: str) -> int:
    if name in ACTIONS:
        return ACTIONS[name]
    if name in _NUMBERS:
        return _ERRNO | _NUMBERS[name]
    raise _wrong(f"{name!r} is no action: {', '.join(ACTIONS)}, or an errno such as 'EPERM'")


def _wrong(problem: str) -> ContextError:
    return ContextError(f"seccomp: {problem}", field="seccomp")


def _library() -> Any:
    import ctypes

    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        reason = "there is no libseccomp.so.2 (Debian: apt-get install libseccomp2)"
        raise Unsupported("seccomp filters by name", reason=reason) from None
    library.seccomp_init.restype = ctypes.c_void_p
    return library


def _compile(wanted: SeccompFilter) -> bytes:
    import ctypes

    class Condition(ctypes.Structure):
        _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))

    library = _library()
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_action(wanted.default))))
    if not context.value:
        raise _wrong(f"libseccomp takes no default of {wanted.default!r}")
    try:
        for name, action, conditions in wanted.rules:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                raise _wrong(f"libseccomp knows no system call {name!r}")
            if action == wanted.default:
                continue
            rows = (Condition * max(len(conditions), 1))()
            for row, (argument, comparison, *values) in zip(rows, conditions, strict=False):
                row.arg, row.op, row.a, row.b = argument, _COMPARISONS[comparison], *(*values, 0)[:2]
            code = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(_action(action)), number, len(conditions), rows
            )
            if code < 0:
                raise _wrong(f"libseccomp refuses the rule for {name!r}: {os.strerror(-code)}")
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _exported(library: Any, context: Any) -> bytes:
    fd = os.memfd_create("sysclone-seccomp", os.MFD_CLOEXEC)
    try:
        code = library.seccomp_export_bpf(context, fd)
        if code < 0:
            raise _wrong(f"libseccomp cannot compile it: {os.strerror(-code)}")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


# --- what a program answers

_RET, _RET_A = 0x06, 0x16


def answer(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What a filter answers to one call, as the kernel would run it.

    Args:
        program: struct sock_filter, one after the other.
        arch: AUDIT_ARCH_….
        number: the system call's.
        arguments: six at most, zero where not given.

    Raises:
        ContextError: it is no program that the kernel would take.
    """
    words = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, *([0] * (6 - len(arguments))))]
    data = struct.pack("=iIQ6Q", number, arch, 0, *words)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    a = x = at = 0
    memory = [0] * 16
    while 0 <= at < len(code):
        kind, yes, no, k = code[at]
        at += 1
        family = kind & 7
        if family == 0:  # LD
            a = _loaded(kind, k, data, memory)
        elif family == 1:  # LDX
            x = _loaded(kind, k, data, memory)
        elif kind in (2, 3):  # ST, STX
            memory[k & 15] = a if kind == 2 else x
        elif family == 4:  # ALU
            a = _computed(kind & 0xF0, a, x if kind & 8 else k)
        elif family == 5:  # JMP
            at += k if kind == 5 else yes if _holds(kind & 0xF0, a, x if kind & 8 else k) else no
        elif kind == _RET:
            return int(k)
        elif kind == _RET_A:
            return int(a)
        elif kind in (7, 0x87):  # TAX, TXA
            a, x = (a, a) if kind == 7 else (x, x)
        else:
            break
    raise _wrong(f"no program that a kernel takes: it runs into instruction {at - 1} of {len(code)}")


def _loaded(kind: int, k: int, data: bytes, memory: list[int]) -> int:
    mode = kind & 0xE0
    if mode == 0x00:
        return k
    if mode == 0x20 and k % 4 == 0 and k <= len(data) - 4:
        return int(struct.unpack_from("=I", data, k)[0])
    if mode == 0x60:
        return memory[k & 15]
    if mode == 0x80:
        return len(data)
    raise _wrong(f"an instruction loads what seccomp has not: {kind:#x} {k}")


def _computed(operation: int, a: int, b: int) -> int:
    table = {
        0x00: a + b, 0x10: a - b, 0x20: a * b, 0x30: a // b if b else 0, 0x40: a | b, 0x50: a & b, 0x60: a << (b & 31),
        0x70: a >> (b & 31), 0x80: -a, 0xA0: a ^ b,
    }  # fmt: skip
    value: int = table.get(operation, 0)
    return value & 0xFFFFFFFF


def _holds(operation: int, a: int, b: int) -> bool:
    held: bool = {0x10: a == b, 0x20: a > b, 0x30: a >= b, 0x40: bool(a & b)}.get(operation, False)
    return bool(held)
