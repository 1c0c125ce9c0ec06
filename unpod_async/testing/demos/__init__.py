"""Two demonstrations of the command line against a sandbox: `export` and `watch`.

Run them with `python -m unpod_async.testing.demos.export` and `python -m unpod_async.testing.demos.watch`.
"""
