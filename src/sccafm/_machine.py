"""What this machine has left: memory and disk."""

import ctypes
import os
import re
import shutil
import sys
from pathlib import Path

UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
CGROUP = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")


def read_bytes(size: int | float | str) -> int:
    """Bytes of "8GB", "512 MB" or a number of bytes.

    Raises
    ------
    ValueError
        Anything else.
    """
    if isinstance(size, int | float) and not isinstance(size, bool) and size > 0:
        return int(size)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(size), re.IGNORECASE)
    if isinstance(size, bool) or found is None or float(found[1]) == 0:
        raise ValueError(f'memory_limit must be a size such as "8GB" or a number of bytes, got {size!r}')
    return int(float(found[1]) * UNITS[found[2].upper()])


def show_bytes(n: float) -> str:
    units = ["B", "KB", "MB", "GB", "TB"]
    while n >= 1024 and len(units) > 1:
        n, units = n / 1024, units[1:]
    return f"{n:.0f} {units[0]}" if units[0] in ("B", "KB", "MB") else f"{n:.1f} {units[0]}"


def available_memory() -> int | None:
    """Bytes that new processes may take: what the machine has free, or what the control group leaves. None where unknown."""
    found = [size for size in (_meminfo(), _control_group()) if size is not None]
    return min(found) if found else None


def _meminfo(path: Path = Path("/proc/meminfo")) -> int | None:
    if path.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text())
        return None if found is None else int(found[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    for most, used in CGROUP:
        try:
            return max(int((root / most).read_text()) - int((root / used).read_text()), 0)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder stands or will stand."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def peak_memory() -> int | None:
    """Most bytes that this process has held."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back_memory() -> None:
    """Ask the C library for what it keeps of freed arrays, hundreds of MB after the first cells of a run. Linux with glibc alone."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
