"""The `boost` command line: one file per command group."""
