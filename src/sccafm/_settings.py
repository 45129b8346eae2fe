"""Settings of the whole library: how much is said beside the progress bars.

``sccafm.settings.verbosity`` is that of scanpy: 0 errors, 1 warnings, 2 information (the receipt of what was read), 3 hints.
Messages go through :mod:`logging`, to the logger "sccafm": add a handler of your own, or raise its level, as for any other.
"""

import logging
import sys

LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}
NAMES = {"error": 0, "warning": 1, "info": 2, "hint": 3, "debug": 3}

logger = logging.getLogger("sccafm")


class Settings:
    """What may be set; one object, `sccafm.settings`."""

    def __init__(self):
        self._verbosity = 2
        logger.setLevel(LEVELS[2])
        if not any(isinstance(handler, _Printed) for handler in logger.handlers):
            logger.addHandler(_Printed())

    @property
    def verbosity(self) -> int:
        """0 errors, 1 warnings, 2 information, 3 hints; also their names."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, level: int | str) -> None:
        found = NAMES.get(level.lower()) if isinstance(level, str) else level
        if isinstance(found, bool) or found not in LEVELS:
            raise ValueError(f"verbosity must be 0 to 3, or one of {list(NAMES)}, got {level!r}")
        self._verbosity = int(found)
        logger.setLevel(LEVELS[self._verbosity])

    def __repr__(self) -> str:
        return f"sccafm.settings: verbosity {self.verbosity}"


class _Printed(logging.StreamHandler):
    """Writes messages as they are to the stream that is standard output now: notebooks exchange it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


settings = Settings()
