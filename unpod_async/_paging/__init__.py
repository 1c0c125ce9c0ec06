"""Read a complete listing: every row exactly once, or an error that says rows may be missing.

`listings` describes listings; `page` defines pages and builds the ones that a walk yields; `fetch` and
`decode` get one page. The walk itself does no I/O: see `commands`, `traversal` and `evidence`. `pager`,
`prefetch`, `stream` and `fanout` drive it. `context` is what the resources of a client share.
"""

from __future__ import annotations

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
    check_model,
    decode_any,
    decode_in_slices,
    decode_object,
    decode_raw,
    decode_rows,
    decode_unless_known,
    decode_with,
    detach_from_body,
    scan_page,
)
from unpod_async._paging.evidence import RowTracker, compact_keys
from unpod_async._paging.fanout import Failed, Lookahead, Ok, OnRunError, fan_out
from unpod_async._paging.fetch import decode_single, fetch, parse_page
from unpod_async._paging.listings import (
    Listing,
    RowKey,
    RunStatusFilter,
    TaskStatusFilter,
    run_tasks,
    space_runs,
    status_filter,
)
from unpod_async._paging.page import Collector, DecodedPage, OnBadRow, Page, RejectedRow
from unpod_async._paging.pager import ListingIterator, Pager, SequentialWalk, received_items
from unpod_async._paging.prefetch import PrefetchedPages, prefetch_pages
from unpod_async._paging.stream import SendBatch, Stream, StreamIterator, received_rows
from unpod_async._paging.traversal import Walk

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
    "RowKey",
    "RowTracker",
    "RunStatusFilter",
    "SendBatch",
    "SequentialWalk",
    "Stream",
    "StreamIterator",
    "TaskStatusFilter",
    "Walk",
    "check_model",
    "compact_keys",
    "decode_any",
    "decode_in_slices",
    "decode_object",
    "decode_raw",
    "decode_rows",
    "decode_single",
    "decode_unless_known",
    "decode_with",
    "detach_from_body",
    "fan_out",
    "fetch",
    "parse_page",
    "prefetch_pages",
    "received_items",
    "received_rows",
    "run_tasks",
    "scan_page",
    "space_runs",
    "status_filter",
]
