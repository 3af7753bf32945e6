"""The `motionloom` command: parse, call the verb, print the result.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 2 something to correct,
1 our mistake, 130 or 143 stopped by a signal (errors.py). Nothing heavy is imported before a command
needs it, so every `--help` answers within half a second.
"""

from motionloom.cli.run import main

__all__ = ["main"]
