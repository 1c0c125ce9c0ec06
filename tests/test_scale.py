"""The simulation of large exports, and whether it sends the requests of real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale_model import Result, Setting, simulate
from benchmarks.scale_runs import SERVICES, Service, measure

ROOT = Path(__file__).parent.parent
DASK: dict[str, Any] = {"workers": 4, "shared_limit": True}


def simulated(**options: Any) -> Result:
    return simulate(Setting(**{"tasks": 100_000, "runs": 10_000, **options}))


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES, ids=[service.name for service in SERVICES])
async def test_it_sends_as_many_requests_as_a_real_export(service: Service) -> None:
    for real in await measure(service, {}):
        assert simulate(Setting(**real.setting)).requests == real.requests, real.way


@pytest.mark.parametrize("tasks", [0, 1, 10, 100])
async def test_it_sends_as_many_requests_for_runs_with_many_or_no_tasks(tasks: int) -> None:
    service = Service("long runs", 9, tasks, page_size=25)
    for real in await measure(service, {}, ("one process", "4 shards")):
        assert simulate(Setting(**real.setting)).requests == real.requests, real.way


def test_the_same_setting_gives_the_same_result() -> None:
    options = {"shards": 5, "process": 1.0, "losses": 2.0, **DASK}
    assert simulated(**options) == simulated(**options)


def test_more_machines_do_not_help_if_the_server_is_the_bottleneck() -> None:
    one = simulated()
    assert one.bottleneck == "server"
    four = simulated(shards=4, **DASK)
    assert (four.bottleneck, four.requests > 3 * one.requests) == ("server", True)
    assert four.seconds > 1.5 * one.seconds


def test_all_workers_together_keep_the_limit() -> None:
    for way in ({}, {"shards": 4, "workers": 4}, {"shards": 4, **DASK}):
        found = simulated(rate=2, row_time=0, **way)
        assert found.bottleneck == "limit"
        assert found.requests / 2 - 6 < found.seconds < found.requests / 2 * 1.05


def test_machines_divide_what_follows_the_export() -> None:
    for name, most in (("process", "processing"), ("recording", "recordings")):
        one, four = simulated(**{name: 1.0}), simulated(**{name: 1.0}, shards=4, **DASK)
        assert one.bottleneck == four.bottleneck == most
        assert 3 < one.seconds / four.seconds < 4


def test_hosts_are_read_at_the_same_time() -> None:
    one, ten = simulated(), simulated(tasks=1_000_000, runs=100_000, hosts=10, workers=10)
    assert ten.seconds == pytest.approx(one.seconds)
    assert ten.requests == 10 * one.requests


def test_a_lost_machine_costs_what_is_not_saved() -> None:
    without = simulated(process=1.0)
    shared, local = (simulated(process=1.0, losses=0.1, local=local) for local in (False, True))
    lost = round((shared.seconds - without.seconds) / 300)
    assert lost > 0
    assert shared.seconds == pytest.approx(without.seconds + lost * 300, abs=lost * 1100)
    assert local.seconds > shared.seconds + 3600


def test_a_listing_that_grows_is_read_from_its_start_after_a_loss() -> None:
    still, growing = (simulated(losses=200, growing=growing, seed=1) for growing in (False, True))
    assert simulated().requests < still.requests < growing.requests


def test_the_page_shows_what_the_program_prints() -> None:
    command = [sys.executable, "benchmarks/scale.py", "--tasks", "100000", "--runs", "10000"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)  # noqa: S603
    head, _, row = done.stdout.splitlines()
    page = (ROOT / "docs" / "explain" / "scaling.md").read_text(encoding="utf-8")
    assert head.removeprefix("| ") in page
    assert row.replace("| yours |", "| 100,000 tasks |") in page
