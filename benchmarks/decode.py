"""Measure how fast a page of tasks is decoded, compared with other ways to read the same bytes.

    python benchmarks/decode.py            # in an environment with unpod-async installed; needs no network

One page of 100 tasks of about 4 kB, the size tasks with a transcript have, is decoded again and again in one
process, the candidates taking turns. A line gives the best round, as the least disturbed one:

    ms/page   time from the body of a page, as bytes, to its rows
    rows/s    the same, per row
    x         that time against the first line's; 2.0 is twice as long

`unpod_async` is all that the client does with a page once it is read: it checks the encoding, decodes into
`Task`s, takes each row's output out of the page (so that a kept task does not keep its page) and finds the
row's key. `typed msgspec` is the decoding alone, and so the lower bound for rows with attributes. `json` and
`untyped msgspec` make dicts, and decode the outputs as well, which `unpod_async` does when `task.output` or
`task.call` is read: the last line reads all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec

from unpod_async import Task
from unpod_async._http import run_tasks
from unpod_async._paging import Listing, decode_rows
from unpod_async.testing import Sandbox

ROWS = 100
ROW_SIZE = 4_000


class Envelope(msgspec.Struct):
    data: list[Task]
    count: int


def page() -> bytes:
    """Return a page as the service sends it, with transcripts of realistic length."""
    sandbox = Sandbox(runs=40, tasks_per_run=10)
    rows = [row for row in sandbox.task_rows() if row["status"] == "completed"][:ROWS]
    for row in rows:
        # The newest runs are in progress; use rows of several runs, as in a real listing.
        row["run_id"] = rows[0]["run_id"]
        transcript = row["output"]["transcript"]
        lines = transcript if isinstance(transcript, list) else row["output"].setdefault("messages", [])
        number = 0
        while len(msgspec.json.encode(row)) < ROW_SIZE:
            number += 1
            said = f"Sentence {number} of the call, with a – dash, an ü and “quotes”."
            lines.append({"role": ("assistant", "user")[number % 2], "content": said, "user_id": None})
    body = msgspec.json.encode({"count": ROWS, "status_code": 200, "message": "", "data": rows})
    if len(rows) != ROWS:
        raise RuntimeError(f"a page of {len(rows)} rows, and the numbers below are of {ROWS}")
    return body


def candidates(body: bytes) -> dict[str, Callable[[], Any]]:
    run_id = json.loads(body)["data"][0]["run_id"]
    listing = Listing(run_tasks("SPACE", run_id), Task, ("task_id", "id"), run_id=run_id)
    typed = msgspec.json.Decoder(Envelope)
    untyped = msgspec.json.Decoder()

    def with_calls() -> list[Any]:
        return [row.call for row in decode_rows(listing, body, 1, {}).rows]

    return {
        "unpod_async": lambda: decode_rows(listing, body, 1, {}),
        "typed msgspec": lambda: typed.decode(body),
        "untyped msgspec": lambda: untyped.decode(body),
        "json": lambda: json.loads(body),
        "unpod_async, every task.call": with_calls,
    }


def best_rounds(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return the best time of each way for one page. They take turns, so that a disturbance affects all."""
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            started_at = time.perf_counter()
            for _ in range(10):
                run()
            best[name] = min(best[name], (time.perf_counter() - started_at) / 10)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="ms per page and rows/s of decoding a page of tasks")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long to measure (%(default)s)")
    options = parser.parse_args()
    body = page()
    best = best_rounds(candidates(body), options.seconds)
    first = best["unpod_async"]
    print(f"{ROWS} tasks, {len(body) / ROWS:,.0f} bytes each, best of rounds of 10 pages\n")
    print(f"{'':30}{'ms/page':>9}{'rows/s':>12}{'x':>7}")
    for name, seconds in best.items():
        print(f"{name:30}{seconds * 1e3:9.3f}{ROWS / seconds:12,.0f}{seconds / first:7.2f}")


if __name__ == "__main__":
    main()
