"""Pages in a real Chromium without a screen: what becomes of their text, and how they look."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

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
