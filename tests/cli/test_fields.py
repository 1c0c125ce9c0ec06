"""The colour of each status and outcome."""

from __future__ import annotations

from tests.tables import each_row
from unpod_async.cli.fields import outcome_style, status_style


@each_row(
    "status, style",
    [
        ("completed", "green"),
        ("partially_completed", "yellow"),
        ("failed", "red"),
        ("in_progress", "cyan"),
        ("processing", "cyan"),
        ("running", "cyan"),
        ("pending", "blue"),
        ("scheduled", "blue"),
        ("hold", "magenta"),
        ("another", ""),
        (None, ""),
        (3, ""),
    ],
)
def test_the_colour_of_a_status(status: object, style: str) -> None:
    assert status_style(status) == style


@each_row(
    "outcome, style",
    [
        ("Interested", "green"),
        ("Very interested", "green"),
        ("Appointment Booked", "green"),
        ("Not Interested", ""),
        ("not_interested", ""),
        ("uninterested", ""),
        ("No Answer", "yellow"),
        ("no-answer", "yellow"),
        ("NO_ANSWER", "yellow"),
        ("Voicemail", "yellow"),
        ("Busy", "yellow"),
        ("Not Reachable", "yellow"),
        ("Switched Off", "yellow"),
        ("Call Back", "blue"),
        ("Callback", "blue"),
        ("Interested, call back later", "blue"),
        ("Wrong Number", "red"),
        ("failed", "red"),
        ("something else", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_colour_of_an_outcome(outcome: object, style: str) -> None:
    assert outcome_style(outcome) == style
