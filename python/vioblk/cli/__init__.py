"""The command line. It stands on the public API alone; needs the extra `cli` (typer, rich)."""
