"""The networks: torch and :mod:`sccafm.types` alone; no pandas, AnnData or paths."""

from sccafm.nn.causal_efm import CausalEFM, CausalEFMConfig
from sccafm.nn.efm import EFM, EFMConfig
from sccafm.nn.sfm import SFM, SFMConfig
from sccafm.nn.vgae import VGAE, VGAEConfig

__all__ = ["EFM", "SFM", "VGAE", "CausalEFM", "CausalEFMConfig", "EFMConfig", "SFMConfig", "VGAEConfig"]
