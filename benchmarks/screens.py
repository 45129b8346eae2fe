"""Perturbation screens, read as they have to be for networks."""

import anndata as ad
import numpy as np
from scipy import sparse

import sccafm


def with_perturbed(adata: ad.AnnData, model: sccafm.Model) -> ad.AnnData:
    """The screen's 500 genes do not hold its perturbed regulators: they are added as genes without a count."""
    listed = {gene for table in model.reference_data.regulators.values() for gene in table.index}
    missing = sorted(set(adata.obs["condition"].astype(str)) & listed - set(adata.var_names))
    silent = ad.AnnData(sparse.csr_matrix((adata.n_obs, len(missing)), dtype=np.float32), adata.obs[[]])
    silent.var_names = missing
    whole = ad.concat([adata, silent], axis=1)
    whole.obs = adata.obs
    return whole
