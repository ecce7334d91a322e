"""Running a program to its end: subprocess's own verbs, with a context."""

from __future__ import annotations

import subprocess

from ._popen import Popen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._context import Description


def run(
    args: Any,
    *,
    context: Description | None = None,
    input: Any = None,  # noqa: A002 (subprocess's name)
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **keywords: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program in a context and wait for it.

    Args:
        args: the program and its arguments, or with shell=True a line for the shell.
        context: a Context; None is a plain new process. Its timeout counts where timeout is not given.
        timeout: seconds after which the program is killed; with `tree=True` everything that it started too.
        input, capture_output, check, and every keyword of subprocess.Popen: as of subprocess.run.

    Returns:
        A subprocess.CompletedProcess; its returncode is 255 where the status was seen by nobody (see Popen.status).

    Raises:
        subprocess.TimeoutExpired: it was killed after timeout seconds.
        subprocess.CalledProcessError: check is set and it did not exit with 0.
        CloneError: a step failed; also FileNotFoundError, PermissionError and so on.
    """
    if input is not None:
        if keywords.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        keywords["stdin"] = subprocess.PIPE
    if capture_output:
        if keywords.get("stdout") is not None or keywords.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        keywords["stdout"] = keywords["stderr"] = subprocess.PIPE
    if timeout is None and context is not None:
        timeout = context.timeout
    with Popen(args, context=context, **keywords) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            if keywords.get("tree"):
                process.kill_tree()
            process.kill()
            process.wait()
            raise
        except BaseException:
            process.kill()
            raise
        returncode = process.poll()
    assert returncode is not None
    if check and returncode:
        raise subprocess.CalledProcessError(returncode, process.args, output=stdout, stderr=stderr)
    return subprocess.CompletedProcess(process.args, returncode, stdout, stderr)
