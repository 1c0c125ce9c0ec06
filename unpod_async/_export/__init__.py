"""Bulk export: the runs and tasks of spaces into a directory of files, complete and resumable.

Imports go down only::

    _entry             `UnpodClient.export`: arguments and their documentation
    _job               one export from its beginning to its end
    _relist            which runs are new, may have changed, are gone
    _fetching _flat _loading   tasks run by run; from the space-wide listing; recordings
    _row_pages _window   pages one by one or ahead, and how far
    _samples _head_start   how long a space-wide listing is; its first pages, asked for beside the runs
    _patience          waiting out what passes; which request fails for reasons of its own
    _staging           rows into the spool, noted at checkpoints
    _publish _run_parts   staged rows into parts
    _pieces _parts     what a part holds; parts into their place, by a step that can be redone
    _manifest _meter _told   what there is, how far it is, and the structs that say so
    _dataset           a target while an export has it open
    _state _spool _whole_files   what a target knows of itself (a database); rows on their way
    _disk _target      the thread that touches the disk; where a data set is kept
    _asked             the question a target answers, and the options
    _formats _csv _parquet _text_parts _writer _sink   the formats of parts
    _columns _cells    the flat columns of CSV and Parquet
    _redact _contact _leaves _needles   contact data out of rows
    _lines _scan _heads   a row as a line; what must be known of it

A run is wanted, then staged (its rows are in the spool), then done (they are in a part); or failed, or gone.
What is staged or done is on the disk and noted, so a kill costs what came after the last checkpoint.
"""
