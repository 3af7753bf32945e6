"""`python -m motionloom` is the `motionloom` command."""

from __future__ import annotations

import sys

from motionloom.cli import main

if __name__ == "__main__":
    sys.exit(main())
