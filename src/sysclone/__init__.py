"""clone(2) for Python: every switch, for functions and for programs.

Layout: `_core` is the C extension; `_flags`, `_errors`, `_hints`, `_kernel` know the kernel; `_context` is the description;
`_task`, `_data`, `_namespaces`, `_cgroup` hold fds; `_steps` is what a child does first; `_call`, `_popen`, `_zygote`,
`_inspect`, `_trace` are the verbs. Each imports from those before it alone. `lowlevel` is the raw tier. Each name is imported
at its first use: the package itself is next to nothing.
"""

from __future__ import annotations

from ._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import lowlevel as lowlevel
    from ._api import Context as Context
    from ._api import call as call
    from ._api import start as start
    from ._context.capabilities import Capabilities as Capabilities
    from ._context.landlock_rules import Landlock as Landlock
    from ._context.mount_types import Mount as Mount
    from ._context.scheduling import Scheduling as Scheduling
    from ._context.seccomp_filter import SeccompFilter as SeccompFilter
    from ._data.memory import result_buffer as result_buffer
    from ._data.shared import Shared as Shared
    from ._data.shared import shared as shared
    from ._data.transport import Descriptor as Descriptor
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
    from ._inspect.inspect import Inspection as Inspection
    from ._inspect.inspect import inspect as inspect
    from ._inspect.relation import Relation as Relation
    from ._inspect.relation import relation as relation
    from ._inspect.relation import why as why
    from ._inspect.sharing import Answer as Answer
    from ._inspect.sharing import ShareGroup as ShareGroup
    from ._inspect.sharing import TaskInfo as TaskInfo
    from ._namespaces import Namespaces as Namespaces
    from ._popen.cause import Cause as Cause
    from ._popen.popen import Popen as Popen
    from ._popen.run import call_program as call_program
    from ._popen.run import check_call as check_call
    from ._popen.run import check_output as check_output
    from ._popen.run import getoutput as getoutput
    from ._popen.run import getstatusoutput as getstatusoutput
    from ._popen.run import run as run
    from ._popen.terminal import Terminal as Terminal
    from ._popen.usage import Usage as Usage
    from ._task.progress import Progress as Progress
    from ._task.progress import progress as progress
    from ._task.status import Status as Status
    from ._task.task import Task as Task
    from ._task.wait_many import wait_all as wait_all
    from ._task.wait_many import wait_any as wait_any
    from ._threads import Thread as Thread
    from ._threads import unshare_thread as unshare_thread
    from ._trace.events import AttachEvent as AttachEvent
    from ._trace.events import CloneEvent as CloneEvent
    from ._trace.events import ExecEvent as ExecEvent
    from ._trace.events import ExitEvent as ExitEvent
    from ._trace.events import SetnsEvent as SetnsEvent
    from ._trace.events import UnshareEvent as UnshareEvent
    from ._trace.session import Trace as Trace
    from ._trace.trace import trace as trace
    from ._zygote.zygote import Zygote as Zygote
    from .executor import Executor as Executor
    from .executor import Future as Future

_LATE = {
    "Answer": "_inspect.sharing",
    "AttachEvent": "_trace.events",
    "Cancelled": "_errors",
    "Capabilities": "_context.capabilities",
    "Cause": "_popen.cause",
    "CloneError": "_errors",
    "CloneEvent": "_trace.events",
    "Context": "_api",
    "ContextError": "_errors",
    "Descriptor": "_data.transport",
    "ExecEvent": "_trace.events",
    "ExitEvent": "_trace.events",
    "Explanation": "_explain",
    "Inspection": "_inspect.inspect",
    "Executor": "executor",
    "Future": "executor",
    "Landlock": "_context.landlock_rules",
    "Mount": "_context.mount_types",
    "Namespace": "_flags",
    "Namespaces": "_namespaces",
    "Popen": "_popen.popen",
    "Progress": "_task.progress",
    "Relation": "_inspect.relation",
    "ResultError": "_errors",
    "SetnsEvent": "_trace.events",
    "Scheduling": "_context.scheduling",
    "SeccompFilter": "_context.seccomp_filter",
    "Share": "_flags",
    "ShareGroup": "_inspect.sharing",
    "Shared": "_data.shared",
    "Status": "_task.status",
    "SyscloneError": "_errors",
    "SyscloneWarning": "_errors",
    "Task": "_task.task",
    "TaskExited": "_errors",
    "TaskFailed": "_errors",
    "TaskInfo": "_inspect.sharing",
    "TaskKilled": "_errors",
    "TaskLost": "_errors",
    "TaskOverLimit": "_errors",
    "TaskTimeout": "_errors",
    "Terminal": "_popen.terminal",
    "Thread": "_threads",
    "Trace": "_trace.session",
    "UnshareEvent": "_trace.events",
    "Unsupported": "_errors",
    "Usage": "_popen.usage",
    "Zygote": "_zygote.zygote",
    "ZygoteError": "_errors",
    "call": "_api",
    "call_program": "_popen.run",
    "check_call": "_popen.run",
    "check_output": "_popen.run",
    "explain": "_explain",
    "getoutput": "_popen.run",
    "getstatusoutput": "_popen.run",
    "inspect": "_inspect.inspect",
    "lowlevel": "lowlevel",
    "progress": "_task.progress",
    "relation": "_inspect.relation",
    "result_buffer": "_data.memory",
    "run": "_popen.run",
    "shared": "_data.shared",
    "start": "_api",
    "trace": "_trace.trace",
    "unshare_thread": "_threads",
    "wait_all": "_task.wait_many",
    "wait_any": "_task.wait_many",
    "why": "_inspect.relation",
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
