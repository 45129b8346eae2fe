"""Pictures of networks and of what was found in them. Every function draws on Axes, `ax=` or new ones, and returns them.

`show=True` calls ``matplotlib.pyplot.show``; `save=` writes a file (SVG, PDF or PNG, by its name), whole or not at all.
"""

from sccafm.pl.comparison import compare
from sccafm.pl.contexts import contexts
from sccafm.pl.edges import edge
from sccafm.pl.html import network_html
from sccafm.pl.networks import network
from sccafm.pl.quality import receipt, reliability
from sccafm.pl.regulators import regulators
from sccafm.pl.report import report
from sccafm.pl.trajectories import trajectory

__all__ = [
    "compare",
    "contexts",
    "edge",
    "network",
    "network_html",
    "receipt",
    "regulators",
    "reliability",
    "report",
    "trajectory",
]
