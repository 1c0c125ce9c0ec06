"""Bulk export: the runs and tasks of spaces into a directory of files, complete and resumable."""
