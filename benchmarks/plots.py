"""Draw the plots: approaches, formats, numbers of runs, latencies, and the serial service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["draw"]

_MIB = 2**20
_MARKS = "osDv^<>ph"
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.12g}")


def draw(found: dict[str, Any], folder: Path, prefix: str) -> list[Path]:
    """Write the plots of what was measured and return their paths."""
    return [
        plot(found, folder / f"{prefix}-{name}.png")
        for group, name, plot in (
            ("scale", "runs", _scale),
            ("latency", "latency", _latency),
            ("exports", "approaches", _exports),
            ("formats", "formats", _formats),
            ("serial", "serial", _serial),
        )
        if group in found
    ]


def _scale(found: dict[str, Any], path: Path) -> Path:
    scale = found["scale"]
    runs = sorted(map(int, scale))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for mark, name in zip(_MARKS, scale[str(runs[0])], strict=False):
        left.loglog(runs, [scale[str(n)][name]["wall"] for n in runs], marker=mark, label=name)
        right.semilogx(runs, [scale[str(n)][name]["peak"] / _MIB for n in runs], marker=mark, label=name)
    left.set(xlabel="runs", ylabel="seconds", title="Time, no latency")
    right.set(xlabel="runs", ylabel="MiB over imports", title="Peak memory", ylim=(0, None))
    left.legend(fontsize=8)
    left.yaxis.set_major_formatter(_PLAIN)
    for axes in (left, right):
        axes.xaxis.set_major_formatter(_PLAIN)
        axes.grid(alpha=0.3)
    return _save(figure, path)


def _latency(found: dict[str, Any], path: Path) -> Path:
    latency = found["latency"]
    times = sorted(map(int, latency))
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for mark, name in zip(_MARKS, latency[str(times[0])], strict=False):
        speeds = [latency[str(ms)][name]["rows"] / latency[str(ms)][name]["wall"] for ms in times]
        axes.semilogy(times, speeds, marker=mark, label=name)
    axes.set(xlabel="latency, ms", ylabel="tasks per second", title="Throughput, 32 requests in flight")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return _save(figure, path)


def _exports(found: dict[str, Any], path: Path) -> Path:
    exports = found["exports"]
    names = [name for name, one in exports.items() if one["rows"]][::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    colours = [_colour(name) for name in names]
    left.barh(names, [exports[name]["cpu"] / exports[name]["rows"] * 1e6 for name in names], color=colours)
    left.set(xscale="log", xlabel="microseconds of processor time per task")
    left.set_xlim(right=2 * left.get_xlim()[1])
    right.barh(names, [exports[name]["peak"] / _MIB for name in names], color=colours)
    right.set(xscale="log", xlabel="MiB over imports, at the peak")
    right.set_xlim(right=2 * right.get_xlim()[1])
    for axes in (left, right):
        axes.bar_label(axes.containers[0], fmt="%.3g", padding=3, fontsize=8)
        axes.xaxis.set_major_formatter(_PLAIN)
        axes.grid(alpha=0.3, axis="x")
    return _save(figure, path)


def _formats(found: dict[str, Any], path: Path) -> Path:
    results = found["formats"]
    names = list(results)[::-1]
    speeds = [results[name]["rows"] / results[name]["cpu"] for name in names]
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    bars = axes.barh(names, speeds, color=[_colour(name) for name in names])
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set(xlabel="tasks per second of processor time", xlim=(0, 1.12 * max(speeds)))
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.grid(alpha=0.3, axis="x")
    return _save(figure, path)


def _serial(found: dict[str, Any], path: Path) -> Path:
    results = found["serial"]["many pages"]
    names = list(results)[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", sharey=True)
    for axes, measured, least, label, fmt in (
        (left, "requests", "least_requests", "requests", "{:.0f}"),
        (right, "wall", "least_time", "seconds", "{:.2f}"),
    ):
        bars = axes.barh(
            names, [results[name][measured] for name in names], color=[_colour(name) for name in names]
        )
        axes.bar_label(bars, fmt=fmt, padding=3, fontsize=8)
        for row, name in enumerate(names):
            axes.plot([results[name][least]] * 2, [row - 0.4, row + 0.4], color="black")
        axes.set(xlabel=f"{label}; the line is what the pages alone take")
        axes.set_xlim(right=1.12 * axes.get_xlim()[1])
        axes.grid(alpha=0.3, axis="x")
    return _save(figure, path)


def _colour(name: str) -> str:
    """Return the colour of an approach: orange for those of this package alone."""
    return "tab:orange" if "unpod" in name and "then" not in name else "tab:blue"


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path
