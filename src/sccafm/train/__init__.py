"""Training: a folder of data sets in, a model folder out. ``python -m sccafm.train sfm --help``, and ``efm``."""

from sccafm.train.config import LossWeights, TrainEFM, TrainSFM
from sccafm.train.efm import train_efm
from sccafm.train.sfm import train_sfm

__all__ = ["LossWeights", "TrainEFM", "TrainSFM", "train_efm", "train_sfm"]
