"""Draw the pictures of `unpod-async watch` and `unpod-async tasks` from the output of real terminal sessions.

    python -m pip install -e '.[cli]' pyte pillow && python benchmarks/screenshot.py

A shell on a pseudo-terminal runs each command against a sandbox. Its bytes go through a terminal emulator,
and the characters of its screen, with their colours, into a PNG. It takes two minutes. POSIX, with the fonts
DejaVu Sans Mono.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyte
from PIL import Image, ImageDraw, ImageFont

from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

TARGET: Final = Path(__file__).parent / "images"
LIVE: Final = {"live": True, "speed": 0.2}
"""A live sandbox whose calls take about as long as real ones."""
COMMANDS: Final[dict[str, tuple[str, float, dict[str, Any]]]] = {
    "watch": ('unpod-async watch "$SPACE" --interval 1', 75.0, LIVE),
    "tasks": ('unpod-async tasks "$SPACE" --status completed --limit 14', 5.0, {}),
}
"""What is typed for each picture, the seconds until it is taken, and the options of the sandbox."""
COLUMNS: Final = 104
LINES: Final = 36

SIZE: Final = 26
MARGIN: Final = 36
BACKGROUND: Final = "#16181d"
TEXT: Final = "#d8dbe0"
COLOURS: Final = {
    "default": TEXT,
    "black": "#5c6370",
    "red": "#ef6b73",
    "green": "#7ccf8f",
    "brown": "#e5c07b",  # yellow, in the terms of terminal emulators
    "blue": "#7aa2f7",
    "magenta": "#c792ea",
    "cyan": "#6fd3e3",
    "white": "#ffffff",
}
DIM: Final = "#7d838e"


class Screen(pyte.Screen):
    """A screen that supports dim characters; it stores them as italics, which are not used here."""

    def select_graphic_rendition(self, *attributes: int, **kwargs: Any) -> None:
        super().select_graphic_rendition(*(3 if one == 2 else one for one in attributes), **kwargs)


class Shell:
    """A shell on a pseudo-terminal, with its screen."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.screen = Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._environment = environment
        self._news = asyncio.Event()

    async def __aenter__(self) -> Shell:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._process = await asyncio.create_subprocess_exec(
            *("bash", "--norc", "--noprofile", "-i"),
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        self._process.kill()
        await self._process.wait()
        os.close(self._ours)

    def _read(self) -> None:
        self._stream.feed(os.read(self._ours, 65536))
        self._news.set()

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def until(self, is_so: Callable[[str], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_so("\n".join(self.screen.display)):
                self._news.clear()
                await self._news.wait()


async def show(command: str, wait: float, **options: Any) -> Screen:
    """Return the screen some seconds after a command was typed."""
    async with Sandbox(runs=140, tasks_per_run=(1, 12), seed=4, **options) as sandbox:
        environment = {
            **{name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "LC_ALL", "TZ"}},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TERM": "xterm-256color",
            "PS1": "$ ",
            "SPACE": sandbox.space_token,
            "UNPOD_PLATFORM_TOKEN": sandbox.token,
            "UNPOD_ORG_HANDLE": sandbox.org_handle,
            "UNPOD_BASE_URL": sandbox.base_url,
        }
        async with Shell(environment) as shell:
            await shell.until(lambda text: text.startswith("$"))
            shell.type("clear\n")
            await shell.until(lambda text: text.count("$") == 1)
            shell.type(f"{command}\n")
            await asyncio.sleep(wait)
            return shell.screen


def draw(screen: Screen, target: Path) -> None:
    """Draw the characters of a screen as a picture of a terminal."""
    fonts = {
        bold: ImageFont.truetype(f"DejaVuSansMono{'-Bold' if bold else ''}.ttf", SIZE)
        for bold in (False, True)
    }
    wide, high = fonts[False].getlength("M"), round(SIZE * 1.36)
    lines = max(line for line, text in enumerate(screen.display) if text.strip()) + 1
    size = (round(COLUMNS * wide) + 2 * MARGIN, lines * high + 2 * MARGIN)
    picture = Image.new("RGBA", size)
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), 22, fill=BACKGROUND)
    for line in range(lines):
        for column in range(COLUMNS):
            cell = screen.buffer[line][column]
            if not cell.data.strip():
                continue
            x, y = MARGIN + column * wide, MARGIN + line * high
            colour = DIM if cell.italics else COLOURS.get(cell.fg, f"#{cell.fg}")
            if cell.data == "━":
                # Like terminals, without gaps between cells.
                middle = y + high // 2
                pen.rectangle((x, middle - 3, x + wide, middle + 3), fill=colour)
            else:
                pen.text((x, y), cell.data, fill=colour, font=fonts[cell.bold])
    picture.quantize(64, method=Image.Quantize.FASTOCTREE).save(target, optimize=True)
    print(f"{target}: {size[0]} x {size[1]}, {target.stat().st_size // 1024} kB")


if __name__ == "__main__":
    for name, (command, wait, options) in COMMANDS.items():
        draw(asyncio.run(show(command, wait, **options)), TARGET / f"{name}.png")
