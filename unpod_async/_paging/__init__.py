"""Read a complete listing: every row exactly once, or an error that says rows may be missing.

`listings` and `page` describe listings and pages; `fetch` and `decode` get one page, and `user_tokens` finds
secrets in its rows. The walk itself does no I/O: see `commands`, `traversal` and `evidence`. `pager`,
`prefetch`, `stream` and `fanout` drive it. `collector` builds the pages that they yield, and `context` is
what the resources of a client share.
"""

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
from unpod_async._paging.context import ClientContext, Resource
from unpod_async._paging.decode import (
    MAX_WHOLE_BYTES,
    SLICE_BYTES,
    Decode,
    decode_in_slices,
    decode_object,
    decode_raw,
    decode_rows,
    decode_with,
    detach,
    scan_page,
)
from unpod_async._paging.evidence import RowTracker, lean_keys
from unpod_async._paging.fanout import Failed, Lookahead, Ok, OnRunError, fan_out
from unpod_async._paging.fetch import decode_single, fetch, parse_page
from unpod_async._paging.listings import Listing, Status, run_tasks, space_runs, status_filter
from unpod_async._paging.page import DecodedPage, Page, RejectedRow
from unpod_async._paging.pager import ListingIterator, Pager, SequentialWalk
from unpod_async._paging.prefetch import PrefetchedPages, prefetch_pages
from unpod_async._paging.stream import SendBatch, Stream, StreamIterator
from unpod_async._paging.traversal import Walk
from unpod_async._paging.user_tokens import replace_user_tokens

__all__ = [
    "MAX_WHOLE_BYTES",
    "SLICE_BYTES",
    "ClientContext",
    "Collector",
    "Decode",
    "DecodedPage",
    "Deliver",
    "Discard",
    "Failed",
    "Fetch",
    "Listing",
    "ListingIterator",
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
    "PrefetchedPages",
    "RejectedRow",
    "Resource",
    "RowTracker",
    "SendBatch",
    "SequentialWalk",
    "Status",
    "Stream",
    "StreamIterator",
    "Walk",
    "decode_in_slices",
    "decode_object",
    "decode_raw",
    "decode_rows",
    "decode_single",
    "decode_with",
    "detach",
    "fan_out",
    "fetch",
    "lean_keys",
    "parse_page",
    "prefetch_pages",
    "replace_user_tokens",
    "run_tasks",
    "scan_page",
    "space_runs",
    "status_filter",
]
