"""Every error MotionLoom raises on purpose, and the exit code each one ends a command with.

    MotionLoomError                 exit 1   ours: something we did not foresee
    ├── UserError                   exit 2   the person at the keyboard can fix it
    │   ├── ConfigError             config   usage, recipes, options
    │   ├── InputError              input    a picture, clip or folder that cannot be used
    │   ├── WeightsError            weights  missing, untrusted or incompatible weights
    │   ├── ResourceError           resource memory, disk, device, permissions
    │   ├── NumericError            numeric  NaN, Inf, divergence
    │   ├── PartialError            partial  some items failed; everything else was written
    │   └── StateError              state    a lock is held, a resume does not match
    └── Interrupted                 exit 130 (SIGINT) or 143 (SIGTERM, SIGHUP); state was saved

A message says what was given and what was expected; `fix` says what to do next.
Our own mistakes are assertions, not errors.
"""

from __future__ import annotations

from typing import ClassVar


class MotionLoomError(Exception):
    """Root of the tree: catch this to catch everything MotionLoom raises on purpose."""

    kind: ClassVar[str] = "internal"
    exit_code: int = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}. Fix: {self.fix}" if self.fix else self.message


class UserError(MotionLoomError):
    """A mistake the user can correct."""

    kind = "user"
    exit_code = 2


class ConfigError(UserError):
    kind = "config"


class InputError(UserError):
    kind = "input"


class WeightsError(UserError):
    kind = "weights"


class ResourceError(UserError):
    kind = "resource"


class NumericError(UserError):
    kind = "numeric"


class PartialError(UserError):
    kind = "partial"


class StateError(UserError):
    kind = "state"


class Interrupted(MotionLoomError):
    """A signal asked us to stop; the state was saved first."""

    kind = "interrupted"

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message, fix="run the same command again to continue")
        self.exit_code = 128 + signal_number if signal_number != 1 else 143
