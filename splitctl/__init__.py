"""The command line: arguments in, rendering out, exit codes. It decides nothing itself."""

__version__ = "0.1.0"
