"""Two demonstrations of the command line against a sandbox: an export, and a watch.

Run them with `unpod-async demo` and `python -m unpod_async.testing.demos.watch`.
The modules `*_process` start and control the child processes: the sandbox, and the command under test.
"""
