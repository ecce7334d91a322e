"""Running a program to its end: subprocess's own verbs, with a context."""

from __future__ import annotations

import subprocess

from .popen import Popen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._context.description import Description


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
    if keywords.get("pty"):
        if capture_output:
            raise ValueError("capture_output may not be used with pty: the terminal's output is captured anyway.")
    elif input is not None:
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
            if process.has_tree:
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


def call_program(args: Any, *, timeout: float | None = None, **keywords: Any) -> int:
    """Run a program, and give its exit status: what `subprocess.call` is; `sysclone.call` runs functions.

    Args:
        args, timeout, and every keyword of Popen: as of run.

    Returns:
        The exit code, or minus the signal that ended it; 255 where the status was seen by nobody.

    Raises:
        subprocess.TimeoutExpired: it was killed after timeout seconds.
        CloneError: a step failed.
    """
    returncode: int = run(args, timeout=timeout, **keywords).returncode
    return returncode


def check_call(args: Any, *, timeout: float | None = None, **keywords: Any) -> int:
    """Run a program that is to succeed, as `subprocess.check_call`.

    Args:
        args, timeout, and every keyword of Popen: as of run.

    Returns:
        0.

    Raises:
        subprocess.CalledProcessError: it did not exit with 0.
        subprocess.TimeoutExpired: it was killed after timeout seconds.
        CloneError: a step failed.
    """
    return call_program(args, timeout=timeout, check=True, **keywords)


def check_output(args: Any, *, timeout: float | None = None, **keywords: Any) -> Any:
    """Run a program that is to succeed, and give what it writes, as `subprocess.check_output`.

    Args:
        args, timeout, and every keyword of run but stdout and check: as there.

    Returns:
        Its standard output: bytes, or str in text mode.

    Raises:
        ValueError: stdout or check was given.
        subprocess.CalledProcessError: it did not exit with 0; `output` has what it wrote.
        subprocess.TimeoutExpired: it was killed after timeout seconds.
        CloneError: a step failed.
    """
    for name in ("stdout", "check"):
        if name in keywords:
            raise ValueError(f"{name} argument not allowed, it will be overridden.")
    if "input" in keywords and keywords["input"] is None:
        # As subprocess: no input is an empty one here.
        in_text = any(keywords.get(name) for name in ("text", "encoding", "errors", "universal_newlines"))
        keywords["input"] = "" if in_text else b""
    return run(args, stdout=subprocess.PIPE, timeout=timeout, check=True, **keywords).stdout


def getstatusoutput(
    cmd: str, *, encoding: str | None = None, errors: str | None = None, **keywords: Any
) -> tuple[int, str]:
    """Run a line in a shell, and give its exit status and its output, both streams in one, as subprocess does.

    Args:
        cmd: the line.
        encoding, errors: of its output.
        keywords: of run, `context` among them.

    Returns:
        The exit status, and the output without a newline at its end.
    """
    try:
        output = check_output(
            cmd, shell=True, text=True, stderr=subprocess.STDOUT, encoding=encoding, errors=errors, **keywords
        )
        status = 0
    except subprocess.CalledProcessError as error:
        output, status = error.output, error.returncode
    return status, output.removesuffix("\n")


def getoutput(cmd: str, *, encoding: str | None = None, errors: str | None = None, **keywords: Any) -> str:
    """The output alone of getstatusoutput, as subprocess does."""
    return getstatusoutput(cmd, encoding=encoding, errors=errors, **keywords)[1]
