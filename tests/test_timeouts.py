"""An attempt ends after its timeout or a silence, and a cancellation from elsewhere stays one."""

from __future__ import annotations

import asyncio

import pytest

from tests.clock import pass_time
from tests.raw_server import RawConnection, RawServer, json_response
from unpod_async import RetryPolicy, UnpodClient
from unpod_async._common import TimeLimit
from unpod_async._http import AttemptTimeout, AttemptTimer
from unpod_async.errors import TransportError

NEVER = 60.0


async def hang() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("seconds", "silence"), [(0.01, NEVER), (NEVER, 0.01)])
async def test_it_ends_with_its_time_or_with_silence(seconds: float, silence: float) -> None:
    with pytest.raises(TimeoutError), AttemptTimeout(seconds, silence, AttemptTimer()):
        await hang()


async def test_a_touch_ends_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now = asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(loop, "time", lambda: now[0])

    async def listen(touched: int, seconds: float) -> None:
        with AttemptTimeout(NEVER, 0.02, AttemptTimer()) as timeout:
            for number in range(10):
                now[0] += seconds
                if number < touched:
                    timeout.touch()
                await asyncio.sleep(0)

    await listen(10, 0.019)
    with pytest.raises(TimeoutError):
        await listen(5, 0.019)
    with pytest.raises(TimeoutError):
        await listen(0, 0.021)
    monkeypatch.undo()


async def test_a_touch_does_not_extend_the_timeout() -> None:
    async def listen() -> None:
        with AttemptTimeout(0.02, NEVER, AttemptTimer()) as timeout:
            while True:
                timeout.touch()
                await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await listen()


async def test_attempts_that_share_a_timer_end_when_each_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, ended, loop, now = AttemptTimer(), list[str](), asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(loop, "time", lambda: now[0])

    async def wait(name: str, seconds: float, silence: float) -> None:
        with pytest.raises(TimeoutError), AttemptTimeout(seconds, silence, timer):
            await hang()
        ended.append(name)

    async def pass_time(until: float) -> None:
        now[0] = until
        for _ in range(4):
            await asyncio.sleep(0)

    with AttemptTimeout(NEVER, NEVER, timer):
        async with asyncio.TaskGroup() as group:
            for name, limits in {"3": (3.0, NEVER), "1": (NEVER, 1.0), "2": (2.0, 2.0)}.items():
                group.create_task(wait(name, *limits))
            await pass_time(0.0)
            for end in (1.0, 2.0, 3.0):
                await pass_time(end)
                assert ended[-1] == f"{end:.0f}"
    assert ended == ["1", "2", "3"]
    monkeypatch.undo()


async def test_an_attempt_that_ends_early_leaves_the_timer_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timer, loop, now = AttemptTimer(), asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(loop, "time", lambda: now[0])
    with AttemptTimeout(1, NEVER, timer):
        pass

    async def wait() -> None:
        with AttemptTimeout(2, NEVER, timer):
            for now[0] in (1.5, 1.9):  # the time of the first attempt is over
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            now[0] = 2.0
            await hang()

    with pytest.raises(TimeoutError):
        await wait()
    monkeypatch.undo()


async def test_a_request_that_is_not_sent_from_a_task_is_refused() -> None:
    loop = asyncio.get_running_loop()
    problem: asyncio.Future[str] = loop.create_future()

    def enter() -> None:
        try:
            with AttemptTimeout(1, 1, AttemptTimer()):
                problem.set_result("")
        except RuntimeError as error:
            problem.set_result(str(error))

    loop.call_soon(enter)
    assert await problem == "requests must be sent from a task"


async def test_a_block_whose_cleanup_takes_several_turns_is_cancelled_once() -> None:
    async def clean_up_slowly() -> None:
        try:
            await hang()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)

    with pytest.raises(TimeoutError), AttemptTimeout(0.01, NEVER, AttemptTimer()):
        await clean_up_slowly()


async def test_an_error_of_the_block_is_its_own() -> None:
    with pytest.raises(KeyError), AttemptTimeout(NEVER, NEVER, AttemptTimer()):
        raise KeyError


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def work() -> None:
        with AttemptTimeout(0.0, NEVER, AttemptTimer()):
            asyncio.get_running_loop().call_soon(task.cancel)
            await hang()

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_ends_in_the_cleanup_of_a_cancelled_task_too() -> None:
    async def work() -> None:
        try:
            await hang()
        finally:
            with pytest.raises(TimeoutError), AttemptTimeout(0.0, NEVER, AttemptTimer()):
                await hang()
            ended.append("in time")

    ended: list[str] = []
    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert ended == ["in time"]


async def test_after_it_the_task_can_be_cancelled_as_ever() -> None:
    with pytest.raises(TimeoutError), AttemptTimeout(0.0, NEVER, AttemptTimer()):
        await hang()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(NEVER):
        await asyncio.sleep(0)


async def test_an_answer_that_comes_byte_by_byte_is_given_up_with_the_attempt() -> None:
    async def drip(connection: RawConnection) -> None:
        await connection.read_request()
        for byte in json_response({"count": 0, "data": []}):
            await connection.send(bytes([byte]))
            pass_time(1)  # less than the limit of a silence
            await asyncio.sleep(0)

    once = RetryPolicy(attempts=1)
    async with (
        RawServer(drip) as server,
        UnpodClient("t", "org", server.base_url, timeout=20, retry=once) as unpod,
    ):
        with pytest.raises(TransportError, match="no response in time") as caught:
            await unpod.runs.list("S").collect()
    assert caught.value.timed_out
    assert caught.value.sent


# --- limits that are no error ------------------------------------------------------------------------------


async def test_a_time_limit_ends_its_block_without_an_error() -> None:
    async with TimeLimit(0) as limit:
        await hang()
    assert limit.passed
    for seconds in (NEVER, float("inf"), -1.0):
        async with TimeLimit(seconds) as limit:
            pass
        assert not limit.passed


async def test_an_error_of_the_block_is_raised() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        async with TimeLimit(NEVER) as limit:
            raise TimeoutError("its own")
    assert not limit.passed


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_cancellation_in_the_turn_in_which_the_time_ends_is_not_lost(is_first: bool) -> None:
    """It was: a create that waited for its turn after a 429 was sent although its task had been cancelled."""
    loop = asyncio.get_running_loop()
    continued = False

    async def work() -> None:
        nonlocal continued
        if is_first:
            loop.call_soon(task.cancel)
        async with TimeLimit(0):  # ends in the next turn
            if not is_first:
                loop.call_soon(task.cancel)
            await hang()
        continued = True

    task = asyncio.ensure_future(work())
    await asyncio.wait({task})
    assert task.cancelled()
    assert not continued
