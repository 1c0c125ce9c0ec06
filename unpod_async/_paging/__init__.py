"""_paging"""

from __future__ import annotations

from unpod_async._paging.collector import Collector, OnBadRow
from unpod_async._paging.commands import (
    Deliver,
    Discard,
    Fetch,
    ListingPreview,
    PageFailure,
    PageRequest,
    PageResult,
    Prefetch,
)
from unpod_async._paging.context import Core, Group, single
from unpod_async._paging.decode import (
    Decode,
    decode_one,
    decode_raw,
    decode_rows,
    decode_with,
    scan_page,
)
from unpod_async._paging.fanout import Failed, Ok, OnRunError, fan_out
from unpod_async._paging.fetch import _checked, fetch
from unpod_async._paging.listings import Listing, Status, run_tasks, space_runs, wanted_statuses
from unpod_async._paging.lookahead import Lookahead
from unpod_async._paging.page import Page, RejectedRow, Rows
from unpod_async._paging.pager import Pager, SequentialWalk
from unpod_async._paging.prefetch import Started, prefetch_pages
from unpod_async._paging.row_tracker import RowTracker, _lean
from unpod_async._paging.sliced_decode import _SLICE as SLICE
from unpod_async._paging.sliced_decode import LARGE, decode_in_slices, scan
from unpod_async._paging.stream import Put, Stream, run_workers
from unpod_async._paging.traversal import Walk

__all__ = [
    "LARGE",
    "SLICE",
    "Collector",
    "Core",
    "Decode",
    "Deliver",
    "Discard",
    "Failed",
    "Fetch",
    "Group",
    "Listing",
    "ListingPreview",
    "Lookahead",
    "Ok",
    "OnBadRow",
    "OnRunError",
    "Page",
    "PageFailure",
    "PageRequest",
    "PageResult",
    "Pager",
    "Prefetch",
    "Put",
    "RejectedRow",
    "RowTracker",
    "Rows",
    "SequentialWalk",
    "Started",
    "Status",
    "Stream",
    "Walk",
    "_checked",
    "_lean",
    "decode_in_slices",
    "decode_one",
    "decode_raw",
    "decode_rows",
    "decode_with",
    "fan_out",
    "fetch",
    "prefetch_pages",
    "run_tasks",
    "run_workers",
    "scan",
    "scan_page",
    "single",
    "space_runs",
    "wanted_statuses",
]
