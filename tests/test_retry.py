"""Decisions about attempts: no HTTP, no sleeping, the clock is a number."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
from typing import Any

import anyio
import backoff
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clock import pass_time
from tests.tables import each_row
from unpod_async import RetryPolicy
from unpod_async._http import (
    AFTER_PROBE,
    Deadline,
    RateGate,
    RequestLimiter,
    RetryBudget,
    RetrySchedule,
    Stats,
    backoff_delays,
    delay_before_retry,
    has_unknown_outcome,
    is_retryable_create,
    is_retryable_get,
    retry_after_of,
)
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)

LOST = TransportError("lost", sent=True)
NEVER_LEFT = TransportError("refused", sent=False)
UNTRUSTED = TransportError("certificate", sent=False, permanent=True)


@each_row(
    ("error", "read", "create"),
    [
        (LOST, True, False),
        (NEVER_LEFT, True, True),
        (UNTRUSTED, False, False),
        (RateLimitedError(429), True, True),
        (ServerError(500), True, False),
        (ServerError(503), True, False),
        (APIError(408), True, False),
        (APIError(409), False, False),
        (APIError(302), False, False),
        (UpstreamError(206), True, False),
        (RefusedError(206), False, False),
        (InvalidRequestError(206), False, False),
        (AuthenticationError(401), False, False),
        (PermissionDeniedError(403), False, False),
        (NotFoundError(404), False, False),
        (DecodeError("no JSON"), True, False),
    ],
    ids=lambda value: repr(value),
)
def test_which_errors_are_retried(error: UnpodError, read: bool, create: bool) -> None:
    assert is_retryable_get(error, 1) is read
    assert is_retryable_create(error, 1) is create


@each_row(
    ("error", "sent", "unknown"),
    [
        (LOST, False, True),
        (NEVER_LEFT, True, True),  # an earlier attempt may have left
        (NEVER_LEFT, False, False),
        (ServerError(500), True, True),
        (UpstreamError(206), True, True),
        (DecodeError("no JSON"), True, True),
        (RateLimitedError(429), True, False),
        (RefusedError(206), True, False),
    ],
    ids=lambda value: repr(value),
)
def test_which_errors_of_a_create_leave_its_outcome_unknown(
    error: UnpodError, sent: bool, unknown: bool
) -> None:
    assert has_unknown_outcome(error, sent=sent) is unknown


def test_a_page_that_a_row_may_break_is_repeated_twice_and_an_unreadable_answer_once() -> None:
    assert [is_retryable_get(UpstreamError(206), made) for made in (1, 2, 3)] == [True, True, False]
    assert [is_retryable_get(DecodeError("x"), made) for made in (1, 2)] == [True, False]


def test_waits_double_up_to_the_cap_and_the_jitter_is_the_callers() -> None:
    assert list(itertools.islice(backoff_delays(0.5, 20, lambda longest: longest), 8)) == [
        0.5,
        1,
        2,
        4,
        8,
        16,
        20,
        20,
    ]


@given(st.floats(0, 20), st.one_of(st.none(), st.floats(0, 1e6)), st.floats(0, 1))
def test_a_delay_is_never_shorter_than_retry_after(drawn: float, hint: float | None, share: float) -> None:
    wait = delay_before_retry(drawn, hint, lambda longest: longest * share)
    assert wait == (drawn if hint is None else pytest.approx(max(drawn, hint) + share * hint / 10))


@given(st.floats(0, 100))
def test_the_default_jitter_stays_within_its_bounds(hint: float) -> None:
    assert hint <= delay_before_retry(0, hint, backoff.full_jitter) <= hint * 1.1 + 1e-9


def test_only_a_429_and_a_503_that_says_so_ask_to_wait() -> None:
    limited = RateLimitedError(429)
    limited.retry_after = 3.0
    assert retry_after_of(limited) == 3
    assert retry_after_of(ServerError(503, headers={"retry-after": "7"})) == 7
    assert retry_after_of(ServerError(503)) is None
    assert retry_after_of(ServerError(500, headers={"retry-after": "7"})) is None


@each_row(
    "wrong",
    [
        *({"attempts": 0}, {"attempts": 1.5}, {"attempts": True}, {"base": 0}, {"base": 30}, {"base": "1"}),
        *({"base": True}, {"cap": float("inf")}, {"cap": None}, {"cap": 0.1}, {"max_retry_after": -0.1}),
        *({"max_retry_after": "60"}, {"max_retry_after": float("nan")}, {"budget": -1}, {"budget": 1.0}),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_a_policy_may_forbid_retries_delays_and_a_budget() -> None:
    policy = RetryPolicy(attempts=1, base=2, cap=2, max_retry_after=0, budget=0)
    assert RetrySchedule.from_policy(policy).next_delay() is None
    assert RetryPolicy(max_retry_after=float("inf")).max_retry_after == float("inf")


def test_a_policy_pickles() -> None:
    policy = RetryPolicy(attempts=7)
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - made above


def test_the_budget_pays_a_hundred_repeats_and_success_gives_back_what_it_cost() -> None:
    budget = RetryBudget(500)
    assert sum(bool(budget.withdraw(timed_out=False)) for _ in range(1000)) == 100
    budget.deposit(15)
    assert budget.left == 15
    assert budget.withdraw(timed_out=True) == 10
    assert budget.withdraw(timed_out=True) == 0
    for _ in range(10_000):
        budget.deposit(0)
    assert budget.left == 500


def test_after_an_outage_repeats_come_back_singly() -> None:
    budget = RetryBudget(500)
    while budget.withdraw(timed_out=False):
        pass
    repeats = 0
    for _ in range(50):
        budget.deposit(0)
        repeats += bool(budget.withdraw(timed_out=False))
    assert repeats == 10  # one for five successes


def longest(seconds: float) -> float:
    return seconds


def test_a_schedule_gives_up_after_its_attempts_and_doubles_the_delay() -> None:
    schedule = RetrySchedule.from_policy(RetryPolicy(attempts=4, base=1), jitter=longest)
    assert [schedule.next_delay() for _ in range(4)] == [1, 2, 4, None]
    assert schedule.failures == 4
    assert RetrySchedule.from_policy(None).next_delay() is None


def test_a_schedule_without_a_limit_starts_again_after_a_success() -> None:
    schedule = RetrySchedule(attempts=None, base=10, cap=60, jitter=longest)
    assert [schedule.next_delay() for _ in range(5)] == [10, 20, 40, 60, 60]
    schedule.reset()
    assert schedule.failures == 0
    assert schedule.next_delay() == 10
    for _ in range(2000):  # 2.0 ** 2000 is no float
        assert schedule.next_delay() is not None


def test_a_schedule_gives_up_when_another_attempt_cannot_help() -> None:
    assert RetrySchedule.from_policy(RetryPolicy()).next_delay(retryable=False) is None


def test_a_schedule_waits_at_least_as_long_as_the_server_asks_and_gives_up_beyond_the_longest() -> None:
    schedule = RetrySchedule.from_policy(RetryPolicy(base=1, max_retry_after=30), jitter=longest)
    assert schedule.next_delay(retry_after=30) == 33
    assert schedule.next_delay(retry_after=30.1) is None


def test_a_renewed_token_counts_as_an_attempt_without_a_delay() -> None:
    schedule = RetrySchedule.from_policy(RetryPolicy(attempts=3, base=1), jitter=longest)
    schedule.retry_at_once()
    assert [schedule.next_delay(), schedule.next_delay()] == [1, None]


def test_a_delay_that_does_not_fit_into_the_deadline_is_not_begun_and_costs_nothing() -> None:
    deadline, budget = Deadline(5, clock=lambda: 0.0), RetryBudget(500)
    deadline.start()
    schedule = RetrySchedule.from_policy(
        RetryPolicy(base=4), jitter=longest, deadline=deadline, budget=budget
    )
    assert [schedule.next_delay(), schedule.next_delay()] == [4, None]
    assert (schedule.cost, budget.left) == (5, 495)


def test_a_schedule_gives_up_when_the_budget_is_used_up() -> None:
    budget = RetryBudget(16)
    schedule = RetrySchedule.from_policy(RetryPolicy(attempts=9), budget=budget)
    assert schedule.next_delay(timed_out=True) is not None
    assert schedule.next_delay() is not None
    assert schedule.next_delay() is None
    assert (schedule.cost, budget.left) == (15, 1)
    budget.deposit(schedule.cost)
    assert budget.left == 16


def test_a_schedule_that_starts_again_has_cost_nothing() -> None:
    schedule = RetrySchedule(attempts=9, base=1, cap=1, budget=RetryBudget(100))
    assert schedule.next_delay() is not None
    assert schedule.cost > 0
    schedule.reset()
    assert schedule.cost == 0


def test_a_delay_of_the_server_is_exceeded_by_a_tenth_at_most() -> None:
    assert delay_before_retry(1, 10, lambda seconds: 100 * seconds) == 11
    assert delay_before_retry(1, 10, lambda seconds: 0.0) == 10


def test_a_gate_that_is_closed_again_while_its_probe_is_accepted_was_not_open() -> None:
    gate = RateGate()
    assert gate.close(0, 10)
    assert gate.try_start(10) == 0
    assert not gate.close(11, 10)
    gate.probe_returned(accepted=True)
    assert not gate.close(12, 1)
    assert gate.close(21, 1) is False  # half open
    gate.probe_returned(accepted=True)
    assert gate.close(30, 1)


def test_the_gate_is_half_open_after_the_requested_delay() -> None:
    gate = RateGate()
    assert gate.try_start(0) == 0
    assert gate.close(10, 5) is True
    assert gate.close(10, 3) is False, "one closing is news, a second answer of the same burst is not"
    assert gate.try_start(12) == pytest.approx(3)
    assert gate.close(15, 0) is False, "nor is one that comes before the probe"
    assert gate.try_start(15) == 0
    assert gate.half_open
    assert gate.try_start(15) == AFTER_PROBE
    gate.probe_returned(accepted=False)
    assert gate.try_start(16) == 0, "a lost probe is followed by another one"
    gate.probe_returned(accepted=True)
    assert [gate.try_start(16) for _ in range(3)] == [0, 0, 0]


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 30)), min_size=1, max_size=20))
def test_no_request_starts_while_the_gate_is_closed(events: list[tuple[float, float]]) -> None:
    gate, now, closed_until = RateGate(), 0.0, 0.0
    for step, seconds in events:
        now += step
        wait = gate.try_start(now)
        assert (wait == 0) <= (now >= closed_until)
        if wait == 0:
            gate.probe_returned(accepted=False)
        gate.close(now, seconds)
        closed_until = max(closed_until, now + seconds)


def test_one_request_starts_at_the_moment_that_the_rate_allows() -> None:
    gate = RateGate(8)
    assert [gate.try_start(now) for now in (0.0, 0.125, 0.125)] == [0, 0, 0.125]


@given(st.floats(0.5, 1000), st.lists(st.floats(0, 0.01), min_size=1, max_size=60))
def test_requests_start_no_faster_than_the_rate_limit(rate: float, steps: list[float]) -> None:
    gate, now, started = RateGate(rate), 0.0, []
    for step in steps:
        now += step
        if gate.try_start(now) == 0:
            started.append(now)
    for earlier, later in itertools.pairwise(started):
        assert later - earlier >= 1 / rate - 1e-9


@pytest.mark.parametrize("late", [1.0, 2.0])
async def test_a_deadline_that_ends_as_a_slot_becomes_free_loses_no_slot(late: float) -> None:
    now, limiter = [0.0], RequestLimiter(RateGate(), Stats(), clock=lambda: now[0])
    slots = [anyio.Semaphore(1)]
    over = Deadline(1, clock=lambda: now[0])
    over.start()
    now[0] = late
    with pytest.raises(TransportError, match="before the request was sent"):
        await limiter.acquire(slots, over)
    async with asyncio.timeout(30):
        permit = await limiter.acquire(slots, Deadline(None))
    assert permit == (False, float("inf"))


async def test_a_request_that_waits_for_the_first_of_two_limits_holds_no_slot_of_the_other() -> None:
    limiter, client, view = RequestLimiter(RateGate(), Stats()), anyio.Semaphore(1), anyio.Semaphore(1)
    client.acquire_nowait()
    waiting = asyncio.ensure_future(limiter.acquire([view, client], Deadline(None)))
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert (view.value, client.value) == (1, 0)


def test_a_deadline_runs_from_the_first_request() -> None:
    now = [100.0]
    deadline = Deadline(10, clock=lambda: now[0])
    assert deadline.left() == float("inf")
    now[0] = 200
    deadline.start()
    now[0] = 207
    deadline.start()
    assert deadline.left() == 3
    assert Deadline(None).start() == Deadline(None).left() == float("inf")
    error = deadline.error("while waiting", sent=False)
    assert str(error) == "the deadline of 10 s ended while waiting"
    assert error.sent is False


# --- the limiter -------------------------------------------------------------------------------------------


class Slots:
    """A limiter of one slot, with a clock that the test sets."""

    def __init__(self, rate: float | None = None) -> None:
        self.now = 0.0
        self.semaphore = anyio.Semaphore(1)
        self.limiter = RequestLimiter(RateGate(rate), Stats(), clock=self.clock)

    def clock(self) -> float:
        return self.now

    def deadline(self, seconds: float | None) -> Deadline:
        return Deadline(seconds, clock=self.clock)

    async def acquire(self, seconds: float | None) -> Any:
        return await self.limiter.acquire([self.semaphore], self.deadline(seconds))

    def release(self) -> None:
        self.limiter.release([self.semaphore], is_probe=False, accepted=True)


async def test_a_slot_that_becomes_free_as_the_deadline_ends_is_not_lost() -> None:
    slots = Slots()
    await slots.acquire(None)
    waiting = asyncio.ensure_future(slots.acquire(10))
    await asyncio.sleep(0)
    slots.now = 10  # the deadline ends by the clock, before its timer fires
    slots.release()
    await asyncio.wait([waiting])
    with pytest.raises(TransportError, match="the deadline of 10 s ended"):
        waiting.result()
    assert slots.semaphore.value == 1
    assert (await slots.acquire(10)).seconds_left == 10


@each_row("released_first", [True, False])
async def test_a_slot_that_becomes_free_in_the_turn_of_the_deadline_is_not_lost(released_first: bool) -> None:
    slots = Slots()
    await slots.acquire(None)
    waiting = asyncio.ensure_future(slots.acquire(0.01))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    due = loop.time() + 0.01
    if released_first:
        while loop.time() <= due:  # both the timer and the waiting task are due when this returns
            pass
        slots.release()
    else:
        loop.call_at(due + 0.01, slots.release)
        while loop.time() <= due + 0.01:
            pass
    await asyncio.wait([waiting])
    if waiting.exception() is None:
        slots.release()
    else:
        assert "while waiting for a free slot" in str(waiting.exception())
    await asyncio.sleep(0)
    assert slots.semaphore.value == 1


@each_row("step", [0, 1, 2, 3])
async def test_a_slot_that_becomes_free_as_its_caller_is_cancelled_is_not_lost(step: int) -> None:
    slots = Slots()
    other = anyio.Semaphore(1)
    await slots.acquire(None)
    waiting = asyncio.ensure_future(
        slots.limiter.acquire([other, slots.semaphore], slots.deadline(None))  # a view and its client
    )
    await asyncio.sleep(0)
    slots.release()
    for _ in range(step):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    if not waiting.cancelled():
        slots.limiter.release([other, slots.semaphore], is_probe=False, accepted=True)
    assert (other.value, slots.semaphore.value) == (1, 1)


async def test_a_deadline_that_ends_before_the_gate_opens_frees_the_slot_at_once() -> None:
    slots = Slots()
    slots.limiter.close_gate(60)
    with pytest.raises(TransportError, match="before a request may start"):
        await slots.acquire(59)
    assert slots.semaphore.value == 1


async def test_a_request_waits_for_the_gate_if_its_deadline_ends_later() -> None:
    slots = Slots()
    slots.limiter.close_gate(0.5)
    waiting = asyncio.ensure_future(slots.acquire(0.75))
    await asyncio.sleep(0)
    slots.now = 0.5
    pass_time(0.5)
    assert await waiting == (True, 0.25)


async def test_each_time_the_gate_closes_other_requests_sleep_until_the_probe_returns() -> None:
    slots = Slots()
    waits: list[str] = []

    async def acquire() -> Any:
        return await slots.limiter.acquire((), slots.deadline(None), lambda reason, _: waits.append(reason))

    for round_ in range(2):
        slots.limiter.close_gate(1)
        slots.now += 1
        assert (await acquire()).is_probe
        other = asyncio.ensure_future(acquire())
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(waits) == round_
        slots.limiter.release((), is_probe=True, accepted=True)
        assert not (await other).is_probe
        assert len(waits) == round_ + 1


async def test_waiting_for_a_slot_counts_for_the_deadline() -> None:
    slots = Slots()
    await slots.acquire(None)
    deadline = slots.deadline(10)
    waiting = asyncio.ensure_future(slots.limiter.acquire([slots.semaphore], deadline))
    await asyncio.sleep(0)
    slots.now = 4
    slots.release()
    assert (await waiting).seconds_left == 6


async def test_a_deadline_that_is_over_takes_no_slot() -> None:
    slots = Slots()
    over = slots.deadline(1)
    over.start()
    slots.now = 2
    with pytest.raises(TransportError, match="before the request was sent") as caught:
        await slots.limiter.acquire([slots.semaphore], over)
    assert caught.value.sent is False
    assert slots.semaphore.value == 1
    assert (await slots.acquire(None)).is_probe is False
