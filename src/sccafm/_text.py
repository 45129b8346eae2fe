"""Messages: names in them, and warnings that point at the caller's line."""

import contextlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

OWN = (
    str(Path(__file__).parent),
    contextlib.__file__,
)  # decorators of contextlib stand between our calls and the caller
UNNAMED = {"": "(empty)", "nan": "(missing)", "None": "(missing)", "<NA>": "(missing)"}


def listing(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(UNNAMED.get(str(name).strip(), str(name)) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def warn(message: str) -> None:
    """A UserWarning at the first line outside of this library, however deep the call is."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(OWN):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
