"""A single-cell simulator in which every cell's regulation is known: the only truth that exists per cell."""

from sccafm.simulation.dynamics import Kinetics
from sccafm.simulation.network import sample_network
from sccafm.simulation.simulator import simulate
from sccafm.simulation.technical import Technical
from sccafm.simulation.truth import CellTruth, read_truth, true_edges

__all__ = ["CellTruth", "Kinetics", "Technical", "read_truth", "sample_network", "simulate", "true_edges"]
