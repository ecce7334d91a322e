"""A trace in strace's words made comparable: pids by their place in the family, addresses and order between tasks gone."""

from __future__ import annotations

import re

MADE = re.compile(r"^(?:clone|clone3|fork|vfork)\(.*\) = (\d+)$", re.DOTALL)
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
ADDRESS = re.compile(r"\b0x[0-9a-f]{5,}\b")
INTERRUPTED = "ERESTARTNOINTR"
UNFINISHED = re.compile(r" <(?:unfinished|pid changed to \d+) \.\.\.>$")
TEMPORARY = re.compile(r"/tmp/\w+(\.\w+)?")


def calls(text: str) -> list[tuple[int, str]]:
    """The task and the words of each line; a call in two halves is whole again, where it began."""
    out: list[tuple[int, str] | None] = []
    halves: dict[int, tuple[int, str]] = {}
    for line in text.splitlines():
        tid, words = int(line.split()[0]), line.split(maxsplit=1)[1]
        place, maker = len(out), tid
        resumed = RESUMED.match(words)
        if resumed:
            # A thread's exec ends under its leader's id.
            maker = (
                tid if tid in halves else next(one for one, half in halves.items() if half[1].startswith(resumed[1]))
            )
            place, half = halves.pop(maker)
            words = half + resumed[2]
        else:
            out.append(None)
        if UNFINISHED.search(words):
            halves[tid] = place, UNFINISHED.sub("", words)
        elif not words.startswith("+++ superseded") and INTERRUPTED not in words:
            # When a signal comes is chance, and the call is made again.
            out[place] = maker, re.sub(r"\)\s+=", ") =", words)
    return [one for one in out if one is not None]


def family(text: str) -> dict[str, list[str]]:
    """Each task's lines in their order, by its place: 0 is the first task, 0.1 its second child."""
    names: dict[int, str] = {}
    made: dict[str, int] = {}
    lines: dict[str, list[str]] = {}
    waiting = calls(text)
    names[waiting[0][0]] = "0"
    results = {int(birth[1]) for _, words in waiting if (birth := MADE.match(words))}
    # In a pid namespace the result is another number: those tasks are named in the order in which they appear.
    strangers = [tid for tid in dict.fromkeys(tid for tid, _ in waiting[1:]) if tid not in results and tid not in names]
    known = {tid for tid, _ in waiting}
    while waiting:
        left = []
        for tid, words in waiting:
            if tid not in names:
                left.append((tid, words))
                continue
            name = names[tid]
            birth = MADE.match(words)
            if birth:
                child = f"{name}.{made.get(name, 0)}"
                made[name] = made.get(name, 0) + 1
                names[int(birth[1]) if int(birth[1]) in known else strangers.pop(0)] = child
                words = words.replace(f"[{birth[1]}]", f"[{child}]").removesuffix(birth[1]) + child
            elif words.startswith("+++"):
                del names[tid]
            words = TEMPORARY.sub("TEMPORARY", ADDRESS.sub("ADDRESS", words))
            lines.setdefault(name, []).append(words)
        if len(left) == len(waiting):
            raise AssertionError(f"nobody made these tasks: {left[:5]}")
        waiting = left
    return lines
