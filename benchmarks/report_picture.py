"""Take the picture of `unpod-async report` for the documentation, from invented calls.

    python -m pip install -e '.[cli]' pillow && python -m benchmarks.report_picture

It needs Chromium on PATH.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

from tests.report.dataset import invented_rows, write_dataset

ROOT: Final = Path(__file__).resolve().parents[1]
TARGET: Final = ROOT / "docs" / "images" / "report.png"
DAYS: Final = 89
SIZE: Final = (1180, 1000)
COLOURS: Final = 48
BROWSER: Final = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--blink-settings=preferredColorScheme=1"),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", *invented_rows(DAYS))
        command = (sys.executable, "-m", "unpod_async", "report", str(folder / "data"), "--utc")
        subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - our own command
        picture = folder / "report.png"
        subprocess.run(  # noqa: S603 - the arguments are constants and files made here
            (
                *BROWSER,
                f"--user-data-dir={folder / 'profile'}",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                f"--screenshot={picture}",
                (folder / "data" / "report.html").as_uri(),
            ),
            check=True,
            stderr=subprocess.DEVNULL,
        )
        TARGET.parent.mkdir(exist_ok=True)
        image = Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        image.save(TARGET, optimize=True)
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
