"""The fields of a Context: what each is when nothing is said, and the check that gives a value its one form."""

from __future__ import annotations

from .._flags import Namespace, Share
from . import fields as check
from . import landlock_rules, mount_types, seccomp_filter
from . import step_fields as step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

    Field = tuple[Any, Callable[[Any, str], Any]]

# Those that become steps of the child, in no order that counts: `_steps.steps` has that.
STEPS: Final[Mapping[str, Field]] = {
    "cwd": (None, step.path_or_fd),
    "root": (None, step.path_or_fd),
    "umask": (None, check.whole(0, 0o777)),
    "session": (False, check.switch),
    "process_group": (None, check.whole(0, 1 << 22)),
    "controlling_terminal": (None, step.path_or_fd),
    "foreground": (None, step.path_or_fd),
    "limits": ((), step.limits),
    "nice": (None, check.whole(-20, 19)),
    "scheduling": (None, step.scheduling),
    "affinity": (None, step.affinity),
    "io_priority": (None, step.io_priority),
    "oom_score_adj": (None, check.whole(-1000, 1000)),
    "timer_slack_ns": (None, check.whole(0, (1 << 63) - 1)),
    "memory_policy": (None, step.memory_policy),
    "parent_death_signal": (None, check.whole(1, 64)),
    "signal_mask": (None, step.signals_or_none),
    "ignored_signals": ((), step.signals),
    "default_signals": ((), step.signals),
    "fds": ((), step.fds),
    "environment": (None, step.environment),
    "argv0": (None, step.argv0),
    "executable": (None, step.path_or_fd),
    "personality": (None, check.whole(0, (1 << 32) - 2)),
    "hostname": (None, step.name),
    "domainname": (None, step.name),
    "propagation": (None, check.one_of_or_none(*mount_types.PROPAGATIONS)),
    "mounts": ((), mount_types.mounts),
    "time_offsets": ((), step.time_offsets),
    "keyring": (None, step.keyring),
    "landlock": (None, landlock_rules.landlock),
    "seccomp": (None, seccomp_filter.seccomp),
    "setup": (None, step.function),
}

FIELDS: Final[Mapping[str, Field]] = {
    "share": (Share(0), check.share),
    "new": (Namespace(0), check.new),
    "join": (None, check.joined),
    "parent": ("caller", check.one_of(*check.PARENTS)),
    "exit_signal": (None, check.whole(0, 64)),
    "stack_bytes": (None, check.whole(check.LEAST_STACK_BYTES, check.MOST_STACK_BYTES)),
    "tid": (None, check.tids),
    "cgroup": (None, check.path_or_fd),
    "clear_signal_handlers": (None, check.switch_or_none),
    "ptrace": (False, check.switch),
    "untraced": (False, check.switch),
    "suspend_caller": (False, check.switch),
    "timeout": (None, check.seconds),
    "uid_map": (None, check.id_map),
    "gid_map": (None, check.id_map),
    "loopback": (False, check.switch),
    "uid": (None, check.whole(0, check.MOST_ID)),
    "gid": (None, check.whole(0, check.MOST_ID)),
    "groups": (None, check.ids),
    "capabilities": (None, check.capabilities),
    "securebits": (None, check.whole(0, 0xFFF)),
    "no_new_privs": (False, check.switch),
    "memory_exclude": ((), check.buffers),
    "memory_wipe": ((), check.buffers),
    **STEPS,
}
