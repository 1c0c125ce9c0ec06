"""Part files: copies of older parts, full disks, aborts, and constant memory."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.parts import IN_ONE_PLACE, KINDS, ROWS, arrow_parquet, lines, written
from unpod_async._export.formats import FORMATS, Range, RowKind
from unpod_async._version import install_command

# --- copies ------------------------------------------------------------------------------------------------


def read(path: Path, form: str, kind: RowKind) -> object:
    if form == "parquet":
        return arrow_parquet(path, kind)
    return gzip.decompress(path.read_bytes()) if form == "jsonl.gz" else path.read_bytes()


def check_copy(path: Path, form: str, kind: RowKind, rows: list[bytes], ranges: list[Range]) -> None:
    """Check that copying equals writing the rows, with other rows before and after."""
    source = written(path / "source", form, kind, rows)
    target = path / f"copy{FORMATS[form].suffix}"
    writer = FORMATS[form].create(target, kind)
    writer.write(rows[:1])
    writer.copy(source, ranges)
    writer.write(rows[:1])
    writer.close()
    expected = [*rows[:1], *itertools.chain(*(rows[start:stop] for start, stop in ranges)), *rows[:1]]
    again = written(path / "again", form, kind, expected)
    assert writer.rows == len(expected)
    assert writer.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert read(target, form, kind) == read(again, form, kind)
    for one in (source, target, again):
        one.unlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_copy_equals_writing_the_rows(tmp_path: Path, form: str, kind: RowKind) -> None:
    rows = lines(kind)
    every_second = [(at, at + 1) for at in range(0, len(rows) - 1, 2)]
    for ranges in (
        [],
        [(0, len(rows))],
        [(3, 3), (len(rows) - 5, len(rows))],
        every_second,
        [(0, 2), (2, 4), (9, 9)],
    ):
        check_copy(tmp_path, form, kind, rows, ranges)


@pytest.mark.parametrize("form", FORMATS)
def test_a_copy_of_a_part_larger_than_the_buffers(tmp_path: Path, form: str) -> None:
    # About 9 MB, and more as CSV. Blocks end inside rows, and batches inside ranges.
    rows = [
        b'{"run_id":"R%d","status":"%b","x":"a\\nb"}' % (at, b"s" * (at * 7919 % 3000)) for at in range(6_000)
    ]
    for ranges in (
        [(0, 6_000)],
        [(1, 5_999)],
        [(at, at + 7) for at in range(0, 5_990, 10)],
        [(0, 1), (1_023, 1_025), (2_048, 5_500), (5_999, 6_000)],
    ):
        check_copy(tmp_path, form, "runs", rows, ranges)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz"])
def test_a_range_that_ends_with_the_last_whole_row_of_a_block(tmp_path: Path, form: str) -> None:
    rows = [b'{"run_id":"R%05d","status":"%b"}' % (at, b"s" * 67) for at in range(12_000)]
    whole, cut = divmod(1 << 20, len(rows[0]) + 1)
    assert cut
    for ranges in ([(0, whole)], [(1, whole), (whole + 1, 12_000)]):
        check_copy(tmp_path, form, "runs", rows, ranges)


@IN_ONE_PLACE
@given(ROWS.filter(bool), st.lists(st.integers(0, 8), max_size=6), st.sampled_from(sorted(FORMATS)))
def test_any_copy_equals_writing_the_rows(
    tmp_path: Path, rows: list[bytes], cuts: list[int], form: str
) -> None:
    cuts = sorted(min(cut, len(rows)) for cut in cuts)
    check_copy(tmp_path, form, "runs", rows, list(zip(cuts[::2], cuts[1::2], strict=False)))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) // 2)
    path.write_bytes(content)


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_that_cannot_be_copied_is_an_os_error(tmp_path: Path, form: str) -> None:
    rows = lines("runs")
    suffix = FORMATS[form].suffix

    def copy(source: Path, ranges: list[Range]) -> None:
        writer = FORMATS[form].create(tmp_path / f"copy{suffix}", "runs")
        try:
            writer.copy(source, ranges)
            writer.close()
        finally:
            writer.abort()

    source = written(tmp_path / "source", form, "runs", rows)
    with pytest.raises(FileNotFoundError):
        copy(tmp_path / "none", [(0, 1)])
    with pytest.raises(OSError, match="ends after"):
        copy(source, [(0, len(rows) + 1)])
    for ranges in ([(2, 1)], [(0, 2), (1, 3)], [(-1, 1)]):
        with pytest.raises(ValueError, match="ascend"):
            copy(source, ranges)
    link = tmp_path / "link"
    link.symlink_to(source)
    with pytest.raises(OSError) as caught:
        copy(link, [(0, 1)])
    assert caught.value.errno == errno.ELOOP
    cut_short(source)
    with pytest.raises(OSError):
        copy(source, [(0, len(rows))])
    if form != "jsonl":
        spoil(source)
        with pytest.raises(OSError):
            copy(source, [(0, len(rows))])
    if form in {"csv", "parquet"}:
        with pytest.raises(OSError, match=r"different columns|different schema") as caught:
            copy(written(tmp_path / "tasks", form, "tasks", lines("tasks")), [(0, 1)])
        assert caught.value.errno == errno.EIO
    assert not (tmp_path / f"copy{suffix}").exists()


# --- files -------------------------------------------------------------------------------------------------


def descriptors() -> dict[int, Path]:
    """Return the open files of this process, on Linux."""
    found = dict[int, Path]()
    for link in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # the descriptor of this listing itself
            found[int(link.name)] = link.readlink()
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_is_a_new_file_that_only_its_owner_can_read(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "runs", form, "runs", [])
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        FORMATS[form].create(path, "runs")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        FORMATS[form].create(link, "runs")
    with pytest.raises(FileNotFoundError):
        FORMATS[form].create(tmp_path / "none" / "runs", "runs")
    assert path.read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", [0, 5_000])
def test_an_aborted_part_is_removed(tmp_path: Path, form: str, rows: int) -> None:
    before = descriptors()
    path = tmp_path / "runs"
    writer = FORMATS[form].create(path, "runs")
    writer.write([b'{"run_id":"%b"}' % (b"x" * 2_000)] * rows)
    writer.abort()
    writer.abort()
    assert not path.exists()
    assert descriptors() == before


@pytest.mark.parametrize("form", FORMATS)
def test_an_error_while_rows_are_read_leaves_no_part(tmp_path: Path, form: str) -> None:
    def failing() -> Any:
        yield b"{}"
        raise LookupError("the spool is gone")

    writer = FORMATS[form].create(tmp_path / "runs", "runs")
    with pytest.raises(LookupError):
        writer.write(failing())
    writer.abort()
    assert list(tmp_path.iterdir()) == []


FULL = """
import gc, random, resource, sys
from pathlib import Path
from unpod_async._export.formats import FORMATS
form, path, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
noise = random.Random(1)
rows = [b'{"run_id":"%x"}' % noise.getrandbits(8_000) for _ in range(2_500)]
if limit < 0:
    whole = FORMATS[form].create(path, "runs")
    whole.write(rows)
    whole.close()
    limit += whole.size
    whole.abort()
writer = FORMATS[form].create(path, "runs")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    writer.write(rows)
    writer.close()
except OSError as error:
    print(type(error).__name__, error.errno)
writer.abort()
del writer
gc.collect()
print(path.exists())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of this kind")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("limit", [0, 100, 1_000_000, -10])
def test_a_disk_that_becomes_full_is_an_os_error_and_leaves_no_file(
    tmp_path: Path, form: str, limit: int
) -> None:
    # A negative limit counts from the end of the part. Then the last write is short first and fails next.
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "error", "-c", FULL, form, str(tmp_path / "part"), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split("\n") == [f"OSError {errno.EFBIG}", "False", ""]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("form", FORMATS)
def test_a_full_device_is_an_os_error(tmp_path: Path, form: str) -> None:
    # A part is always a new file, so the device replaces its descriptor.
    full = os.open("/dev/full", os.O_WRONLY)
    writer = FORMATS[form].create(tmp_path / "runs", "runs")
    (made,) = [number for number, name in descriptors().items() if name == tmp_path / "runs"]
    os.dup2(full, made)
    os.close(full)
    with pytest.raises(OSError) as caught:  # noqa: PT012 - either may raise
        writer.write([b"{}"] * 10)
        writer.close()
    assert caught.value.errno == errno.ENOSPC
    writer.abort()
    assert list(tmp_path.iterdir()) == []


NO_ARROW = """
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from unpod_async._export.formats import FORMATS
from unpod_async.errors import ConfigurationError
for form in ("jsonl", "jsonl.gz", "csv"):
    writer = FORMATS[form].create(Path(sys.argv[1]) / form, "tasks")
    writer.write([b"{}"])
    writer.close()
try:
    FORMATS["parquet"].create(Path(sys.argv[1]) / "parquet", "tasks")
except ConfigurationError as error:
    print(error)
"""


def test_without_pyarrow_only_parquet_fails_and_the_error_has_a_hint(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", NO_ARROW, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert install_command("parquet") in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "jsonl", "jsonl.gz"]


def test_pyarrow_is_imported_only_for_parquet() -> None:
    code = "import sys, unpod_async._export.formats;print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "False\n"


@pytest.mark.parametrize("form", FORMATS)
def test_memory_does_not_depend_on_the_size_of_the_part(tmp_path: Path, form: str) -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        path = tmp_path / f"{form}-{rows}"
        writer = FORMATS[form].create(path, "runs")
        writer.write(b'{"run_id":"%d","status":"%b"}' % (at, b"x" * 4_000) for at in range(rows))
        writer.close()
        again = FORMATS[form].create(tmp_path / "copy", "runs")
        again.copy(path, [(0, rows // 2), (rows // 2 + 1, rows)])
        again.close()
        again.abort()
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    pa_before = pa.total_allocated_bytes()
    few, many = peak(5_000), peak(20_000)
    assert many < few + 4_000_000
    assert many < 40_000_000
    assert pa.total_allocated_bytes() - pa_before < 1_000_000
