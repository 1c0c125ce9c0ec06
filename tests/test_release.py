"""Whether hints and documentation install the package from where it is, and links of the README on PyPI."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from unpod_async._version import IS_PUBLISHED, install_command

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_one_constant_decides_how_texts_install_the_package() -> None:
    texts = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    texts += [path for path in (ROOT / "unpod_async").rglob("*.py") if path.name != "_version.py"]
    from_index = [
        path.name for path in texts if re.search(r"pip install '?unpod-async", path.read_text("utf-8"))
    ]
    assert bool(from_index) == IS_PUBLISHED, from_index
    expected = (
        "pip install 'unpod-async[cli]'"
        if IS_PUBLISHED
        else "pip install '.[cli]' in a clone of the repository"
    )
    assert install_command("cli") == expected


def test_the_description_on_pypi_has_absolute_links_with_one_address() -> None:
    substitutions = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = "![a picture](images/a.png) [a page](docs/a.md#part) [here](#part) [site](https://a.example/b)"
    for each in [
        *substitutions[:-1],
        {**substitutions[-1], "replacement": "https://host.example/owner/name"},
    ]:
        text = re.sub(each["pattern"], each["replacement"], text)
    assert text == (
        "![a picture](https://host.example/owner/name/raw/main/images/a.png) "
        "[a page](https://host.example/owner/name/blob/main/docs/a.md#part) [here](#part) "
        "[site](https://a.example/b)"
    )
    assert all(address.startswith("https://") for address in PROJECT["project"]["urls"].values())
