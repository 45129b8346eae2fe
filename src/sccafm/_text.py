"""Names in messages."""

from collections.abc import Sequence


def listing(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")
