"""What networks and embeddings are used for: regulators of groups and conditions; heads that read a cell's vector."""

from sccafm.tl.activity import regulator_activity
from sccafm.tl.comparison import Comparison, compare
from sccafm.tl.fitting import fit_head
from sccafm.tl.heads import Head, Tuned, read_head
from sccafm.tl.knockouts import Knockout, knockout
from sccafm.tl.mapping import annotate, map_to
from sccafm.tl.prediction import predict
from sccafm.tl.ranking import rank_regulators
from sccafm.tl.trajectories import Trajectory, trajectory
from sccafm.tl.tuning import Finetune

__all__ = [
    "Comparison",
    "Head",
    "Knockout",
    "Trajectory",
    "Tuned",
    "Finetune",
    "annotate",
    "compare",
    "fit_head",
    "knockout",
    "map_to",
    "predict",
    "rank_regulators",
    "read_head",
    "regulator_activity",
    "trajectory",
]
