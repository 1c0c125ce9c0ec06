"""One module for each command, or for a few related ones: its options and what it does.

Everything that is not needed for `--help` is imported inside the functions.
"""
