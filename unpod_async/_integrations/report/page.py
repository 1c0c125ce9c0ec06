"""The page of a report: its texts, tables and plots, in one file that loads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import Final, Literal

from unpod_async._common import clock, counted, local_time, zone_name
from unpod_async._export import Manifest
from unpod_async._integrations.report.aggregate import (
    NANODOLLARS,
    Figures,
    Group,
    Groups,
    Period,
    RunFigures,
    Tally,
    Unit,
    group_days,
    percentile,
    top_groups,
)
from unpod_async._integrations.report.markup import Child, Markup, element, join
from unpod_async._integrations.report.plots import PlotColumn, PlotRow, column_plot, row_plot, scale
from unpod_async._integrations.report.style import STYLE
from unpod_async._version import VERSION

__all__ = ["build_page"]

_MAX_BARS: Final = 10
_MAX_MISSING: Final = 20
_MAX_TABLE: Final = 12  # rows; a longer table scrolls
_MAX_PLOT_LABEL: Final = 30  # characters, so that the label and the value fit on a phone
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_DURATIONS: Final = (0, 10, 30, 60, 120, 300, 600, 1200, 1800)
"""Lower bounds of the columns of durations, in seconds."""

_ONLY_IF_ROOM: Final = {"Not ended"}
"""Columns that are left out of tables on a phone."""

_UNIT_NAMES: Final[dict[Unit, str]] = {"day": "Day", "week": "Week from", "month": "Month", "year": "Year"}


def build_page(manifest: Manifest, figures: Figures, zone: tzinfo | None) -> Markup:
    """Return the whole page as HTML.

    Args:
        zone: The zone of the times; None is the zone of this machine.
    """
    title = _title(figures)
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="robots" content="noindex">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    spaces = counted(len(manifest.options.spaces), "space")
    runs = counted(figures.runs.total(), "run")
    exported = _moment(manifest.finished, zone)
    body = element(
        "body",
        element(
            "header",
            element("h1", title),
            element("p", f"{runs} of {spaces}, exported {exported}", class_="muted"),
            *_notes(manifest, figures),
            _tiles(figures.total) if figures.total.calls else None,
        ),
        element("main", *(_sections(figures, zone) if figures.total.calls else ()), _runs(figures, zone)),
        *_missing(manifest),
        _footer(manifest, figures, zone),
    )
    return Markup(f"<!doctype html>\n{element('html', head, body, lang='en')}\n")


def _title(figures: Figures) -> str:
    if figures.first is None or figures.last is None:
        return "Calls"
    first, last = figures.first.date(), figures.last.date()
    return f"Calls of {_day(first)}" if first == last else f"Calls from {_day(first)} to {_day(last)}"


# -- what the reader must know about the data ---------------------------------------------------------------


def _notes(manifest: Manifest, figures: Figures) -> Iterable[Markup]:
    options = manifest.options
    if not manifest.complete:
        has_all_rows = not (manifest.failed_runs.count or manifest.unreadable_rows.count or manifest.reasons)
        yield _note(
            "This export has all runs and calls, but not all recordings. The next export tries to fetch"
            if has_all_rows
            else "This export is incomplete, and so are the figures. The next export tries to fetch",
            Markup(" "),
            element("a", "what is missing", href="#missing"),
            ".",
            kind="warning",
        )
    if not figures.total.calls:
        yield _note("This export has no calls.")
    if options.runs is not None:
        yield _note(f"The export is limited to {counted(len(options.runs), 'selected run')}.")
    if options.since is not None or options.until is not None:
        bounds = [
            f"{word} {at:%Y-%m-%d %H:%M} UTC"
            for word, at in (("from", options.since), ("until", options.until))
            if at is not None
        ]
        yield _note(f"The export is limited to runs created {' '.join(bounds)}.")
    if options.redact == "drop":
        yield _note("Names, phone numbers and e-mail addresses were removed from this export.")
    if options.redact == "hash":
        yield _note("Names, phone numbers and e-mail addresses in this export are replaced by hashes.")
    yield from _odd_values(figures)


def _odd_values(figures: Figures) -> Iterable[Markup]:
    if figures.undated:
        yield _note(
            "Left out of the plots of days and hours: "
            f"{counted(figures.undated, 'call')} without a usable time."
        )
    if figures.odd_durations:
        yield _note(
            f"Not counted: {counted(figures.odd_durations, 'duration')} below zero or longer than a day."
        )
    if figures.odd_costs:
        yield _note(f"Not counted: {counted(figures.odd_costs, 'cost')} below zero or above a million USD.")


def _note(*texts: Child, kind: Literal["info", "warning"] = "info") -> Markup:
    return element("p", *texts, class_=f"note {kind}", role="note")


def _missing(manifest: Manifest) -> Iterable[Markup]:
    if manifest.complete:
        return
    lost = [
        (counted(manifest.failed_runs.count, "run"), manifest.failed_runs.count, "could not be read"),
        (counted(manifest.unreadable_rows.count, "row"), manifest.unreadable_rows.count, "left out"),
        (counted(manifest.failed_recordings, "recording"), manifest.failed_recordings, "not downloaded"),
    ]
    items = [f"{what} {verb}" for what, count, verb in lost if count] + manifest.reasons
    items += [failed.reason for failed in manifest.failed_downloads]
    parts: list[Child] = [element("ul", *(element("li", item) for item in items))]
    failed = manifest.failed_runs.examples[:_MAX_MISSING]
    if failed:
        rows = [(run.run_id or "(without an id)", run.reason) for run in failed]
        parts.append(_table(["Run", "Why it could not be read"], rows, wide=True))
    bad = manifest.unreadable_rows.examples[:_MAX_MISSING]
    if bad:
        cells = [
            (
                "a run" if row.run_id is None else f"a task of run {row.run_id}",
                "-" if row.place is None else f"{row.place:,}",
                row.reason,
            )
            for row in bad
        ]
        parts.append(_table(["Row", "Position", "Why it was left out"], cells, wide=True))
    if manifest.failed_runs.count > len(failed) or manifest.unreadable_rows.count > len(bad):
        parts.append(element("p", "The manifest of the export lists more of them.", class_="muted"))
    yield element("section", element("h2", "Missing data"), *parts, class_="card", id="missing")


def _footer(manifest: Manifest, figures: Figures, zone: tzinfo | None) -> Markup:
    times = sorted({zone_name(local_time(at, zone)) for at in _instants(manifest, figures)})
    return element(
        "footer",
        element(
            "p",
            "A call is a task of the export. Its day and hour are those of its start, or of its creation if "
            f"its start is unknown. Times are in {' and '.join(times)}. The rate is the share of calls that "
            "completed. Costs are in US dollars, as the service states them.",
        ),
        element(
            "p",
            f"{'Spaces' if len(manifest.options.spaces) > 1 else 'Space'}: "
            f"{', '.join(manifest.options.spaces)}. Made by unpod-async {VERSION}.",
        ),
    )


def _instants(manifest: Manifest, figures: Figures) -> list[datetime]:
    """Return times in both halves of the year, which may differ in daylight saving time."""
    if figures.first is None or figures.last is None:
        return [manifest.finished]
    days = min((figures.last - figures.first).days, 365)
    return [figures.first + timedelta(days=number) for number in range(0, days + 1, 30)] + [figures.last]


# -- the numbers at the top ---------------------------------------------------------------------------------


def _tiles(total: Tally) -> Markup:
    tiles = [
        ("Calls", f"{total.calls:,}", None),
        ("Completed", f"{total.completed:,}", _share(total.completed, total.calls)),
        ("Failed", f"{total.failed:,}", _share(total.failed, total.calls)),
        ("Not ended", f"{total.open:,}", _share(total.open, total.calls)),
        (
            "Talk time",
            _hours(total.milliseconds),
            f"{_average_duration(total)} each" if total.timed else None,
        ),
        ("Cost", _total_dollars(total.cost), f"{_average_cost(total)} each" if total.priced else None),
    ]
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", value, class_="number"),
                element("dd", more, class_="muted") if more else None,
            )
            for name, value, more in tiles
        ),
        class_="tiles",
    )


# -- the sections -------------------------------------------------------------------------------------------


def _sections(figures: Figures, zone: tzinfo | None) -> Iterable[Markup]:
    if figures.days:
        unit, periods = group_days(figures.days)
        yield _calls_by_period(unit, periods)
        yield _outcomes(figures)
        yield _durations(figures)
        yield _costs(unit, periods, figures.total)
        yield _agents(figures)
        yield _by_hour(figures)
    else:
        yield from (_outcomes(figures), _durations(figures), _agents(figures))
    if figures.total.failed:
        yield _reasons(figures)


def _calls_by_period(unit: Unit, periods: Sequence[Period]) -> Markup:
    busiest = max(periods, key=lambda period: period.tally.calls)
    columns = [
        PlotColumn(
            label,
            _parts(period.tally),
            f"{_period_name(period.start, unit)}: {_describe(period.tally)}",
        )
        for period, label in zip(periods, _ticks(periods, unit), strict=True)
    ]
    rows = [
        (
            _period_cell(period.start, unit),
            *_counts(period.tally),
            _share(period.tally.completed, period.tally.calls),
        )
        for period in periods
    ]
    return _section(
        f"Calls per {unit}",
        f"Most calls: {busiest.tally.calls:,}, {_period_name(busiest.start, unit)}.",
        column_plot(columns, f"Calls per {unit}, completed, failed and not ended"),
        _table([_UNIT_NAMES[unit], "Calls", "Completed", "Failed", "Not ended", "Rate"], rows),
        legend=True,
    )


def _outcomes(figures: Figures) -> Markup:
    counted_calls = sum(group.tally.calls for group in figures.outcomes) + figures.outcomes.rest.calls
    known = counted_calls - sum(group.tally.calls for group in figures.outcomes if group.label is None)
    return _section(
        "Outcomes",
        f"{counted(known, 'call')} with an outcome, "
        f"{counted(counted_calls - known, 'completed call')} without one."
        if counted_calls
        else "No call has an outcome.",
        *_grouped(
            figures.outcomes,
            "Outcome",
            ["Calls", "Share", "Average", "Cost"],
            lambda tally: (
                f"{tally.calls:,}",
                _share(tally.calls, counted_calls),
                _average_duration(tally),
                _dollars(tally.cost),
            ),
            lambda tally: (tally.calls,),
            none="No outcome",
        ),
    )


def _durations(figures: Figures) -> Markup:
    seconds, total = figures.seconds, figures.total
    counts = [0] * len(_DURATIONS)
    for value, calls in seconds.items():
        counts[max(number for number, bound in enumerate(_DURATIONS) if bound <= value)] += calls
    names = [_range_of(number) for number in range(len(_DURATIONS))]
    columns = [
        PlotColumn(clock(bound), (count,), f"{name}: {counted(count, 'call')}")
        for bound, count, name in zip(_DURATIONS, counts, names, strict=True)
    ]
    rows = [
        (name, f"{count:,}", _share(count, total.timed)) for name, count in zip(names, counts, strict=True)
    ]
    median, long = percentile(seconds, 0.5), percentile(seconds, 0.9)
    text = (
        f"Average {_average_duration(total)}, median {clock(median)}, and nine of ten calls last at most "
        f"{clock(long)}. {total.timed:,} of {total.calls:,} calls have a duration."
        if median is not None and long is not None
        else "No call has a duration."
    )
    if not total.timed:
        return _section("Durations", text)
    return _section(
        "Durations",
        text,
        column_plot(columns, "Calls by duration", at_edges=True, label_every=1),
        _table(["Duration", "Calls", "Share"], rows),
    )


def _costs(unit: Unit, periods: Sequence[Period], total: Tally) -> Markup:
    title = f"Cost per {unit}"
    if not total.priced:
        return _section(title, "No call has a cost.")
    columns = [
        PlotColumn(
            label,
            (period.tally.cost / NANODOLLARS,),
            f"{_period_name(period.start, unit)}: {_dollars(period.tally.cost)} for "
            f"{counted(period.tally.priced, 'call')}",
        )
        for period, label in zip(periods, _ticks(periods, unit), strict=True)
    ]
    rows = [
        (
            _period_cell(period.start, unit),
            _dollars(period.tally.cost),
            f"{period.tally.priced:,}",
            _average_cost(period.tally),
        )
        for period in periods
    ]
    highest = max(period.tally.cost for period in periods) / NANODOLLARS
    return _section(
        title,
        f"{_dollars(total.cost)} in total, {_average_cost(total)} per call. {total.priced:,} of "
        f"{total.calls:,} calls have a cost.",
        column_plot(columns, f"{title} in US dollars", tick=_dollar_tick(highest), is_whole=False),
        _table([_UNIT_NAMES[unit], "Cost", "Calls", "Per call"], rows),
    )


def _agents(figures: Figures) -> Markup:
    shown, _, others = top_groups(figures.agents, _MAX_BARS)
    number = sum(group.label is not None for group in shown) + others
    more = " or more" if figures.agents.rest.calls else ""
    return _section(
        "Agents",
        f"{counted(number, 'agent')}{more}.",
        *_grouped(
            figures.agents,
            "Agent",
            ["Calls", "Rate", "Average", "Cost"],
            lambda tally: (
                f"{tally.calls:,}",
                _share(tally.completed, tally.calls),
                _average_duration(tally),
                _dollars(tally.cost),
            ),
            _parts,
            none="No agent",
        ),
        legend=True,
    )


def _by_hour(figures: Figures) -> Markup:
    busiest = max(range(24), key=lambda hour: figures.hours[hour].calls)
    columns = [
        PlotColumn(f"{hour:02}", _parts(tally), f"{_hour(hour)}: {_describe(tally)}")
        for hour, tally in enumerate(figures.hours)
    ]
    rows = [
        (_hour(hour), *_counts(tally), _share(tally.completed, tally.calls))
        for hour, tally in enumerate(figures.hours)
    ]
    return _section(
        "Hours of the day",
        f"Most calls: {figures.hours[busiest].calls:,}, {_hour(busiest)}.",
        column_plot(columns, "Calls by hour of the day", at_edges=True, label_every=3),
        _table(["Hour", "Calls", "Completed", "Failed", "Not ended", "Rate"], rows),
        legend=True,
    )


def _reasons(figures: Figures) -> Markup:
    failed = figures.total.failed
    return _section(
        "Failed calls",
        f"{failed:,} of {figures.total.calls:,} calls failed.",
        *_grouped(
            figures.reasons,
            "Reason",
            ["Calls", "Share"],
            lambda tally: (f"{tally.calls:,}", _share(tally.calls, failed)),
            lambda tally: (0, tally.calls),
            none="No reason",
        ),
    )


def _runs(figures: Figures, zone: tzinfo | None) -> Markup | None:
    total = figures.runs.total()
    if not total:
        return None
    ordered = sorted(figures.runs.items(), key=lambda item: (-item[1], item[0] or ""))
    rows = [(status or "No status", f"{count:,}", _share(count, total)) for status, count in ordered]
    bars = [
        PlotRow(
            _fit(status or "No status"),
            (count,) if status not in ("failed", "partially_completed") else (0, count),
            f"{count:,}",
            f"{status or 'No status'}: {counted(count, 'run')}",
            is_muted=status is None,
        )
        for status, count in ordered[:_MAX_BARS]
    ]
    failed = figures.runs["failed"] + figures.runs["partially_completed"]
    return _section(
        "Runs",
        f"{counted(total, 'run')}, {failed:,} of them failed or partially completed.",
        row_plot(bars, "Runs by status"),
        _table(["Status", "Runs", "Share"], rows),
        after=_failed_runs(figures.failed_runs, failed, zone),
    )


def _failed_runs(runs: Sequence[RunFigures], number: int, zone: tzinfo | None) -> Markup | None:
    if not runs:
        return None
    rows = [
        (
            run.run_id or "(without an id)",
            "-" if run.created is None else _moment(run.created, zone),
            run.status,
            f"{run.tally.calls:,}",
            f"{run.tally.completed:,}",
            f"{run.tally.failed:,}",
        )
        for run in runs
    ]
    title = "Failed runs" if number == len(runs) else f"The newest {len(runs)} of {number:,} failed runs"
    return join([
        element("h3", title),
        _table(["Run", "Created", "Status", "Calls", "Completed", "Failed"], rows, wide=True, texts=3),
    ])


# -- parts of a section -------------------------------------------------------------------------------------


def _section(
    title: str,
    text: str,
    plot: Markup | None = None,
    table: Markup | None = None,
    *,
    legend: bool = False,
    after: Markup | None = None,
) -> Markup:
    figure = element("figure", _legend() if legend else None, plot) if plot is not None else None
    return element(
        "section",
        element("h2", title),
        element("p", text, class_="muted"),
        element("div", figure, table, class_="pair") if figure is not None else None,
        after,
        class_="card",
    )


def _legend() -> Markup:
    names = ("completed", "failed", "not ended")
    items = [element("li", element("i", class_=f"s{series}"), name) for series, name in enumerate(names)]
    return element("ul", *items, class_="legend")


def _table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = False, texts: int = 1
) -> Markup:
    """Return a table that scrolls if it is long.

    Args:
        wide: The table has the width of the page, instead of half of it, beside a plot.
        texts: The number of columns with text; the others have numbers, aligned to the right.
    """
    texts = len(names) if wide and texts == 1 else texts

    def cell(tag: str, number: int, text: str, **attributes: Child) -> Markup:
        kind = "n roomy" if names[number] in _ONLY_IF_ROOM else "n"
        return element(tag, text, class_=None if number < texts else kind, **attributes)

    head = element("tr", *(cell("th", number, name, scope="col") for number, name in enumerate(names)))
    body = [
        element(
            "tr",
            cell("th", 0, row[0], scope="row"),
            *(cell("td", number, text) for number, text in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    table = element("table", element("thead", head), element("tbody", *body))
    kind = "scroll long" if len(body) > _MAX_TABLE else "scroll"
    return element(
        "div",
        table,
        class_=f"{kind} wide" if wide else kind,
        tabindex=0,
        role="region",
        aria_label=names[0],
    )


def _grouped(
    groups: Groups,
    name: str,
    names: Sequence[str],
    cells: Callable[[Tally], Sequence[str]],
    values: Callable[[Tally], tuple[float, ...]],
    *,
    none: str,
) -> tuple[Markup | None, Markup | None]:
    """Return a plot and a table of the most frequent values."""
    shown, others, number = top_groups(groups, _MAX_BARS)
    if others.calls:
        several = f"{number:,} others" if not groups.rest.calls else f"more than {number:,} others"
        shown = [*shown, Group(f"({several})", others)]
    if not shown:
        return None, None
    bars: list[PlotRow] = []
    rows: list[Sequence[str]] = []
    for position, group in enumerate(shown):
        label = none if group.label is None else group.label
        is_muted = group.label is None or (position == len(shown) - 1 and others.calls > 0)
        bars.append(
            PlotRow(
                _fit(label),
                values(group.tally),
                f"{group.tally.calls:,}",
                f"{label}: {counted(group.tally.calls, 'call')}",
                is_muted,
            )
        )
        rows.append((label, *cells(group.tally)))
    return row_plot(bars, f"Calls by {name.lower()}"), _table([name, *names], rows)


def _parts(tally: Tally) -> tuple[float, ...]:
    return tally.completed, tally.failed, tally.open


def _counts(tally: Tally) -> tuple[str, ...]:
    return f"{tally.calls:,}", f"{tally.completed:,}", f"{tally.failed:,}", f"{tally.open:,}"


def _describe(tally: Tally) -> str:
    return (
        f"{counted(tally.calls, 'call')} ({tally.completed:,} completed, {tally.failed:,} failed, "
        f"{tally.open:,} not ended)"
    )


# -- numbers and times as text ------------------------------------------------------------------------------


def _share(part: int, whole: int) -> str:
    """Return a share in whole per cent. Only nothing is 0%, and only everything is 100%."""
    if not whole:
        return "-"
    if 0 < part < whole:
        return f"{min(max(round(100 * part / whole), 1), 99)}%"
    return "100%" if part else "0%"


def _hours(milliseconds: int) -> str:
    hours = milliseconds / 3_600_000
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def _average_duration(tally: Tally) -> str:
    return clock(tally.milliseconds / tally.timed / 1000) if tally.timed else "-"


def _dollars(cost: int) -> str:
    return f"${cost / NANODOLLARS:,.2f}"


def _total_dollars(cost: int) -> str:
    """Return a cost without cents if it is so high that they do not matter, and do not fit."""
    return _dollars(cost) if cost < 10_000 * NANODOLLARS else f"${cost / NANODOLLARS:,.0f}"


def _average_cost(tally: Tally) -> str:
    return f"${tally.cost / tally.priced / NANODOLLARS:,.3f}" if tally.priced else "-"


def _dollar_tick(highest: float) -> Callable[[float], str]:
    """Return the text of a grid line, with as many decimals as the lines up to `highest` need."""
    step = scale(highest, is_whole=False)[1]
    decimals = 0 if step >= 1 and step == int(step) else 2 if step >= 0.01 else 4
    return lambda value: f"${value:,.{decimals}f}"


def _range_of(number: int) -> str:
    """Return the durations of a column as text."""
    low = _DURATIONS[number]
    if number + 1 == len(_DURATIONS):
        return f"{low // 60} min and more"
    high = _DURATIONS[number + 1]
    if low < 60:
        return f"{low} to {high} s" if high < 60 else f"{low} s to {high // 60} min"
    return f"{low // 60} to {high // 60} min"


def _hour(hour: int) -> str:
    return f"{hour:02}:00–{(hour + 1) % 24:02}:00"


def _moment(at: datetime, zone: tzinfo | None) -> str:
    local = local_time(at, zone)
    return f"{local:%Y-%m-%d %H:%M} {zone_name(local)}"


def _day(day: date) -> str:
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _ticks(periods: Sequence[Period], unit: Unit) -> list[str]:
    """Return the labels of the columns of a plot."""
    starts = [period.start for period in periods]
    if unit == "year":
        return [str(start.year) for start in starts]
    if unit == "day" or (unit == "week" and len(starts) <= 52):
        return [f"{start.day} {_MONTHS[start.month - 1]}" for start in starts]
    return [f"{_MONTHS[start.month - 1]} ’{start.year % 100:02}" for start in starts]


def _period_name(start: date, unit: Unit) -> str:
    match unit:
        case "day":
            return f"on {_day(start)}"
        case "week":
            return f"in the week from {_day(start)}"
        case "month":
            return f"in {_MONTHS[start.month - 1]} {start.year}"
        case "year":
            return f"in {start.year}"


def _period_cell(start: date, unit: Unit) -> str:
    match unit:
        case "day" | "week":
            return start.isoformat()
        case "month":
            return f"{start:%Y-%m}"
        case "year":
            return str(start.year)


def _fit(label: str) -> str:
    return label if len(label) <= _MAX_PLOT_LABEL else f"{label[: _MAX_PLOT_LABEL - 1]}…"
