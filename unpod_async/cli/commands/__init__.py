"""One module per command, and one for all listings: its options and what it does.

Everything that is not needed for `--help` is imported inside the functions.
"""
