"""Training: a folder of data sets in, a model folder out. ``python -m sccafm.train sfm --help``."""

from sccafm.train.config import LossWeights, TrainSFM
from sccafm.train.sfm import train_sfm

__all__ = ["LossWeights", "TrainSFM", "train_sfm"]
