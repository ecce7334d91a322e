"""clone(2) for Python: every switch, for functions and for programs.

Layout: `_core` is the C extension; `_flags`, `_errors`, `_kernel` know the kernel; `_context`, `_proc` are pure;
`_task`, `_cgroup` hold fds; `_call`, `_popen`, `_run` are the verbs. Each imports from those before it alone. `lowlevel` is the
raw tier. Each name is imported at its first use: the package itself is next to nothing.
"""

from __future__ import annotations

from ._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import lowlevel as lowlevel
    from ._api import Context as Context
    from ._api import call as call
    from ._api import start as start
    from ._capabilities import Capabilities as Capabilities
    from ._cause import Cause as Cause
    from ._errors import Cancelled as Cancelled
    from ._errors import CloneError as CloneError
    from ._errors import ContextError as ContextError
    from ._errors import ResultError as ResultError
    from ._errors import SyscloneError as SyscloneError
    from ._errors import SyscloneWarning as SyscloneWarning
    from ._errors import TaskExited as TaskExited
    from ._errors import TaskFailed as TaskFailed
    from ._errors import TaskKilled as TaskKilled
    from ._errors import TaskLost as TaskLost
    from ._errors import TaskOverLimit as TaskOverLimit
    from ._errors import TaskTimeout as TaskTimeout
    from ._errors import Unsupported as Unsupported
    from ._errors import ZygoteError as ZygoteError
    from ._explain import Explanation as Explanation
    from ._explain import explain as explain
    from ._flags import Namespace as Namespace
    from ._flags import Share as Share
    from ._inspect import Inspection as Inspection
    from ._inspect import inspect as inspect
    from ._landlock_rules import Landlock as Landlock
    from ._memory import result_buffer as result_buffer
    from ._mount_types import Mount as Mount
    from ._namespaces import Namespaces as Namespaces
    from ._popen import Popen as Popen
    from ._progress import Progress as Progress
    from ._progress import progress as progress
    from ._relation import Relation as Relation
    from ._relation import relation as relation
    from ._relation import why as why
    from ._run import call_program as call_program
    from ._run import check_call as check_call
    from ._run import check_output as check_output
    from ._run import getoutput as getoutput
    from ._run import getstatusoutput as getstatusoutput
    from ._run import run as run
    from ._scheduling import Scheduling as Scheduling
    from ._seccomp_filter import SeccompFilter as SeccompFilter
    from ._shared import Shared as Shared
    from ._shared import shared as shared
    from ._sharing import Answer as Answer
    from ._sharing import ShareGroup as ShareGroup
    from ._sharing import TaskInfo as TaskInfo
    from ._status import Status as Status
    from ._task import Task as Task
    from ._terminal import Terminal as Terminal
    from ._threads import Thread as Thread
    from ._threads import unshare_thread as unshare_thread
    from ._trace import trace as trace
    from ._trace_events import AttachEvent as AttachEvent
    from ._trace_events import CloneEvent as CloneEvent
    from ._trace_events import ExecEvent as ExecEvent
    from ._trace_events import ExitEvent as ExitEvent
    from ._trace_events import SetnsEvent as SetnsEvent
    from ._trace_events import UnshareEvent as UnshareEvent
    from ._trace_session import Trace as Trace
    from ._transport import Descriptor as Descriptor
    from ._usage import Usage as Usage
    from ._wait_many import wait_all as wait_all
    from ._wait_many import wait_any as wait_any
    from ._zygote import Zygote as Zygote
    from .executor import Executor as Executor
    from .executor import Future as Future

_LATE = {
    "Answer": "_sharing",
    "AttachEvent": "_trace_events",
    "Cancelled": "_errors",
    "Capabilities": "_capabilities",
    "Cause": "_cause",
    "CloneError": "_errors",
    "CloneEvent": "_trace_events",
    "Context": "_api",
    "ContextError": "_errors",
    "Descriptor": "_transport",
    "ExecEvent": "_trace_events",
    "ExitEvent": "_trace_events",
    "Explanation": "_explain",
    "Inspection": "_inspect",
    "Executor": "executor",
    "Future": "executor",
    "Landlock": "_landlock_rules",
    "Mount": "_mount_types",
    "Namespace": "_flags",
    "Namespaces": "_namespaces",
    "Popen": "_popen",
    "Progress": "_progress",
    "Relation": "_relation",
    "ResultError": "_errors",
    "SetnsEvent": "_trace_events",
    "Scheduling": "_scheduling",
    "SeccompFilter": "_seccomp_filter",
    "Share": "_flags",
    "ShareGroup": "_sharing",
    "Shared": "_shared",
    "Status": "_status",
    "SyscloneError": "_errors",
    "SyscloneWarning": "_errors",
    "Task": "_task",
    "TaskExited": "_errors",
    "TaskFailed": "_errors",
    "TaskInfo": "_sharing",
    "TaskKilled": "_errors",
    "TaskLost": "_errors",
    "TaskOverLimit": "_errors",
    "TaskTimeout": "_errors",
    "Terminal": "_terminal",
    "Thread": "_threads",
    "Trace": "_trace_session",
    "UnshareEvent": "_trace_events",
    "Unsupported": "_errors",
    "Usage": "_usage",
    "Zygote": "_zygote",
    "ZygoteError": "_errors",
    "call": "_api",
    "call_program": "_run",
    "check_call": "_run",
    "check_output": "_run",
    "explain": "_explain",
    "getoutput": "_run",
    "getstatusoutput": "_run",
    "inspect": "_inspect",
    "lowlevel": "lowlevel",
    "progress": "_progress",
    "relation": "_relation",
    "result_buffer": "_memory",
    "run": "_run",
    "shared": "_shared",
    "start": "_api",
    "trace": "_trace",
    "unshare_thread": "_threads",
    "wait_all": "_wait_many",
    "wait_any": "_wait_many",
    "why": "_relation",
}

__all__ = [
    "Answer",
    "AttachEvent",
    "Cancelled",
    "Capabilities",
    "Cause",
    "CloneError",
    "CloneEvent",
    "Context",
    "ContextError",
    "Descriptor",
    "ExecEvent",
    "Executor",
    "ExitEvent",
    "Explanation",
    "Future",
    "Inspection",
    "Landlock",
    "Mount",
    "Namespace",
    "Namespaces",
    "Popen",
    "Progress",
    "Relation",
    "ResultError",
    "Scheduling",
    "SeccompFilter",
    "SetnsEvent",
    "Share",
    "ShareGroup",
    "Shared",
    "Status",
    "SyscloneError",
    "SyscloneWarning",
    "Task",
    "TaskExited",
    "TaskFailed",
    "TaskInfo",
    "TaskKilled",
    "TaskLost",
    "TaskOverLimit",
    "TaskTimeout",
    "Terminal",
    "Thread",
    "Trace",
    "UnshareEvent",
    "Unsupported",
    "Usage",
    "Zygote",
    "ZygoteError",
    "__version__",
    "call",
    "call_program",
    "check_call",
    "check_output",
    "explain",
    "getoutput",
    "getstatusoutput",
    "inspect",
    "lowlevel",
    "progress",
    "relation",
    "result_buffer",
    "run",
    "shared",
    "start",
    "trace",
    "unshare_thread",
    "wait_all",
    "wait_any",
    "why",
]


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{_LATE[name]}", __name__)
    value = module if name == _LATE[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATE])
