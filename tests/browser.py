"""Pages in a real Chromium without a screen: what becomes of their text, and how they look."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Any, Self

SECONDS = 50


def browse(page: Path, words: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium on a file, with what comes after the # in its address; a complaint of the page's is a failure."""
    with tempfile.TemporaryDirectory(prefix="sysclone-chromium-") as home:
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--enable-logging=stderr", "--force-device-scale-factor=1", "--window-size=1000,420",
            "--virtual-time-budget=3000", f"--user-data-dir={home}", *options, f"{page.as_uri()}#{words}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
    return done


def text_of(page: Path, words: str) -> str:
    """The page's elements as they are when its script has run."""
    return browse(page, words, "--dump-dom").stdout


def picture_of(page: Path, words: str, where: Path) -> Picture:
    """The page as it looks; the file is kept for people to look at."""
    browse(page, words, f"--screenshot={where}")
    return Picture(where.read_bytes())


class Picture:
    """The pixels of a PNG: 8 bits a channel, RGB or RGBA, not interlaced, which is what Chromium writes."""

    def __init__(self, png: bytes) -> None:
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        self.width, self.height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
        assert (depth, interlaced) == (8, 0)
        self.channels = {2: 3, 6: 4}[kind]
        self.pixels = self._unfiltered(zlib.decompress(self._data(png)))

    @staticmethod
    def _data(png: bytes) -> bytes:
        at, found = 8, b""
        while at < len(png):
            (size,) = struct.unpack_from(">I", png, at)
            if png[at + 4 : at + 8] == b"IDAT":
                found += png[at + 8 : at + 8 + size]
            at += size + 12
        return found

    def _unfiltered(self, raw: bytes) -> list[list[tuple[int, ...]]]:
        size, step = self.width * self.channels, self.channels
        lines = []
        above = [0] * size
        for row in range(self.height):
            begin = row * (size + 1)
            way, line = raw[begin], list(raw[begin + 1 : begin + 1 + size])
            if way == 2:
                line = [(a + b) & 255 for a, b in zip(line, above, strict=True)]
            elif way:
                line = guessed(line, above, step, way)
            lines.append(list(zip(*(line[i::step] for i in range(3)), strict=True)))
            above = line
        return lines

    def at(self, x: int, y: int) -> str:
        """One pixel: "#rrggbb"."""
        return "#" + bytes(self.pixels[y][x]).hex()

    def count(self, colour: str) -> int:
        """How many pixels have exactly this colour."""
        wanted = tuple(bytes.fromhex(colour[1:]))
        return sum(line.count(wanted) for line in self.pixels)


def guessed(line: list[int], above: list[int], step: int, way: int) -> list[int]:
    """A line whose bytes were told by their difference from a guess that needs the bytes before."""
    found = [0] * step + line
    corner = [0] * step + above
    for i, byte in enumerate(line):
        left = found[i]
        guess = left if way == 1 else (left + above[i]) // 2 if way == 3 else nearest(left, above[i], corner[i])
        found[i + step] = (byte + guess) & 255
    return found[step:]


def nearest(left: int, above: int, corner: int) -> int:
    """PNG's Paeth predictor."""
    guess = left + above - corner
    a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
    return left if a <= b and a <= c else above if b <= c else corner


class Tab:
    """A page that is open, with a mouse and keys, by Chromium's own protocol over two pipes."""

    def __init__(self, page: Path) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="sysclone-chromium-", ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        options = (
            "--headless --no-sandbox --disable-gpu --no-first-run --window-size=1000,420 --force-device-scale-factor=1"
        )
        # It reads from fd 3 and writes to fd 4.
        line = (
            f"exec 3<&{theirs_in} 4>&{theirs_out}; exec chromium {options} --remote-debugging-pipe --user-data-dir=$0"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", line, self._home.name], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._rest, self._session = 0, b"", ""
        self._heard: set[object] = set()
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.send("Page.enable")
            self.send("Page.navigate", url=page.as_uri())
            while "Page.loadEventFired" not in self._heard:
                self._next()
        except BaseException:
            self.__exit__()
            raise

    def _next(self) -> dict[str, Any]:
        """The next thing that it says."""
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], SECONDS)[0], "Chromium says nothing more"
            piece = os.read(self._from, 1 << 16)
            assert piece, "Chromium has ended"
            self._rest += piece
        one, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(one)
        self._heard.add(told.get("method"))
        return told

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something, and give the answer."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        """What an expression of the page's comes to, when the page has been drawn again."""
        drawn = f"new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r))).then(() => ({script}))"
        answer = self.send("Runtime.evaluate", expression=drawn, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event: "mouseMoved", "mousePressed", "mouseReleased", "mouseWheel"."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """A click of the left button."""
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Press a key for each letter; a carriage return is Enter."""
        for letter in text:
            name = {"\r": "Enter"}.get(letter, letter)
            self.send("Input.dispatchKeyEvent", type="keyDown", key=name, text=letter)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)
        os.close(self._from)
        with self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._home.cleanup()
