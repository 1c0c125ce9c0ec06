"""The style sheet of the page."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --edge: #e2e5ea; --text: #1c222b; --muted: #5d6673; --grid: #e6e9ee;
  --s0: #2f6fd6; --s1: #d9653b; --s2: #a4adba; --track: #eef0f4; --hover: #2f6fd614;
  --warn: #7a4b00; --warn-page: #fff4dc; --warn-edge: #f0d08a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #13161b; --card: #1b1f26; --edge: #2d333d; --text: #e5e9ef; --muted: #98a2b1; --grid: #2a303a;
    --s0: #6ea0f2; --s1: #ee8a63; --s2: #6b7686; --track: #262b34; --hover: #6ea0f21f;
    --warn: #f3cf8a; --warn-page: #33280f; --warn-edge: #5f4b1c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 32px 24px 48px; max-width: 1180px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; letter-spacing: -0.01em; }
h2 { margin: 0; font-size: 1.15rem; }
h3 { margin: 24px 0 8px; font-size: 1rem; }
p { margin: 4px 0 0; }
.muted { color: var(--muted); }
.note {
  margin: 12px 0 0; padding: 9px 14px; border: 1px solid var(--edge); border-radius: 8px;
  background: var(--card);
}
.warning { color: var(--warn); background: var(--warn-page); border-color: var(--warn-edge); }
.tiles {
  display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 12px; margin: 20px 0 0;
}
.tiles div, .card { border: 1px solid var(--edge); border-radius: 12px; background: var(--card); }
.tiles div { padding: 12px 16px; }
dt { color: var(--muted); font-size: 0.87rem; }
dd { margin: 0; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
dd.number { font-size: 1.5rem; font-weight: 650; line-height: 1.3; white-space: nowrap; }
.card { margin: 16px 0 0; padding: 20px 24px 22px; }
.pair { display: grid; grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); gap: 36px; margin-top: 14px; }
figure { margin: 0; min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 4px; padding: 0; list-style: none; }
.legend li { color: var(--muted); font-size: 0.87rem; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 3px; }
i.s0 { background: var(--s0); }
i.s1 { background: var(--s1); }
i.s2 { background: var(--s2); }
svg { display: block; overflow: visible; width: 100%; }
svg.columns { width: calc(100% - 46px); margin-left: 46px; }
rect.s0 { fill: var(--s0); }
rect.s1 { fill: var(--s1); }
rect.s2 { fill: var(--s2); }
.track { fill: var(--track); }
.hover { fill: transparent; }
.slot:hover .hover { fill: var(--hover); }
.grid { stroke: var(--grid); }
.base { stroke: var(--s2); }
text { fill: var(--text); font-size: 13px; }
.tick { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums; }
.y, .value { text-anchor: end; }
.x { text-anchor: middle; }
.value { font-variant-numeric: tabular-nums; }
text.muted { fill: var(--muted); }
.scroll { overflow: auto; align-self: start; scrollbar-width: thin; }
.long { max-height: 314px; }
.scroll:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }
.wide { margin-top: 12px; }
.long.wide { max-height: 420px; }
table { width: 100%; border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 5px 0 5px 14px; border-bottom: 1px solid var(--grid); text-align: left; vertical-align: top;
}
th:first-child { padding-left: 0; }
thead th {
  position: sticky; top: 0; background: var(--card); color: var(--muted); font-weight: 500;
  box-shadow: inset 0 -1px var(--edge);
}
tbody th { min-width: 7em; font-weight: 500; overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; }
a { color: inherit; }
.wide td { overflow-wrap: anywhere; }
ul { margin: 8px 0 0; padding-left: 20px; }
footer { margin-top: 20px; color: var(--muted); font-size: 0.87rem; overflow-wrap: anywhere; }
@media (max-width: 960px) {
  .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .pair { grid-template-columns: minmax(0, 1fr); gap: 18px; }
  .long { max-height: 240px; }
}
@media (max-width: 560px) {
  body { padding: 18px 12px 32px; }
  h1 { font-size: 1.35rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .tiles div { padding: 9px 12px; }
  dd.number { font-size: 1.25rem; }
  .card { padding: 16px 14px; }
  .roomy { display: none; }
  table { font-size: 0.8rem; }
  th, td { padding-left: 8px; }
}
@media print {
  body { max-width: none; background: none; }
  .card { break-inside: avoid; }
  .scroll, .long.wide { max-height: none; overflow: visible; }
}
"""
