"""A profile by sampling, which adds next to nothing to what it looks at."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["Sampler"]


class Sampler:
    """Where processor time goes: the stack of the loop's thread, whenever the kernel's profiling timer fires.

    `cProfile` adds its own time to each call, which makes many small calls look dearer than they are.
    """

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.under: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.samples = 0

    def __enter__(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _: int, frame: Any) -> None:
        self.samples += 1
        top = True
        seen: set[str] = set()
        while frame is not None:
            code = frame.f_code
            where = f"{_short(code.co_filename)}:{code.co_qualname}"
            if top:
                self.own[where] += 1
                self.lines[f"{where}:{frame.f_lineno}"] += 1
                top = False
            seen.add(where)
            frame = frame.f_back
        self.under.update(seen)

    def write(self, path: Path) -> None:
        total = max(1, self.samples)
        text = [f"{self.samples} samples\n", "own"]
        text += [f"{100 * n / total:6.2f} %  {name}" for name, n in self.own.most_common(60)]
        text += ["", "with what is called"]
        text += [f"{100 * n / total:6.2f} %  {name}" for name, n in self.under.most_common(90)]
        text += ["", "lines"]
        text += [f"{100 * n / total:6.2f} %  {name}" for name, n in self.lines.most_common(60)]
        path.write_text("\n".join(text) + "\n")


def _short(name: str) -> str:
    parts = Path(name).parts
    return "/".join(parts[-2:])
