"""``python -m sccafm.cli`` is the command ``sccafm``."""

from sccafm.cli import main

main()
