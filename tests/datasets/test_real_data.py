"""Real data sets as they are found: the first cells of each, through the whole road."""

import anndata as ad
import numpy as np
import pytest

import sccafm

CELLS = 6
# file: species, values, least share of genes that must be known
COUNTS, LOG, LINEAR = "counts", "normalised and log", "normalised values that are not log"
SETS = {
    "kang18_ifnb_2800": ("human", COUNTS, 0.88),
    "kang18_8684x2511": ("human", COUNTS, 0.97),
    "paul15_myeloid": ("mouse", COUNTS, 0.8),
    "pancreas_baron_mouse": ("mouse", COUNTS, 0.85),
    "perturbench_devel_norman_mcfaline": ("human", LOG, 0.8),
    "beeline_mDC_TFs500": ("mouse", LOG, 0.9),
    "beeline_hHep_delay": ("human", LOG, 0.9),
    "beeline_mHSC-L_delay": ("mouse", LOG, 0.9),
    "embryo_etv2_gong281": ("mouse", LINEAR, 0.8),
    "thp1_kouno_45tf": ("human", LOG, 0.95),
}


@pytest.fixture(params=SETS)
def real(request, shared):
    backed = ad.read_h5ad(shared / f"datasets/dev/{request.param}.h5ad", backed="r")
    return backed[:CELLS].to_memory(), *SETS[request.param]


@pytest.mark.filterwarnings("ignore:.* is normalised:UserWarning")
@pytest.mark.filterwarnings("ignore:.*share the model's token of a gene:UserWarning")
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_real_cells_give_networks(real, tiny_model):
    adata, species, values, known = real
    grn = sccafm.infer_grn(adata, tiny_model, n_top_genes=300, progress=False)
    receipt = grn.params["receipt"]
    assert receipt["species"] == species
    assert receipt["values"].startswith(values)
    assert receipt["n_cells"] == CELLS
    assert receipt["n_genes"] == adata.n_vars
    assert 1 - receipt["n_lost"] / receipt["n_genes"] >= known
    found = sum(receipt[f"n_{way}"] for way in ("ensembl", "symbol", "ortholog", "alias"))
    assert found + receipt["n_lost"] == receipt["n_genes"]
    assert receipt["n_regulators"] == len(grn.regulators) > 2
    assert receipt["n_used"] == len(grn.targets) <= 300 + len(grn.regulators)
    assert np.isfinite(grn.summary).all()
    assert np.isfinite(grn.matrix().to_numpy()).all()
    frame = grn.to_frame()
    assert frame["weight"].between(0, 1).all()
    assert frame["cell"].nunique() == CELLS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sim_sergio_DS4", r"obs\['species'\] says 'synthetic', which is neither human nor mouse"),
        ("sim_krumsiek11", "X holds negative values .gene 'Gata1' of cell"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* is normalised:UserWarning")
def test_simulated_cells_are_refused_with_the_reason(shared, tiny_model, name, message):
    adata = ad.read_h5ad(shared / f"datasets/dev/{name}.h5ad")[:CELLS].copy()
    with pytest.raises(ValueError, match=message):
        sccafm.infer_grn(adata, tiny_model, progress=False)


@pytest.mark.filterwarnings("ignore:.*share the model's token of a gene:UserWarning")
def test_mouse_cells_have_mouse_regulators(shared, tiny_model):
    adata = ad.read_h5ad(shared / "datasets/dev/paul15_myeloid.h5ad")[:40].copy()
    grn = sccafm.infer_grn(adata, tiny_model, n_top_genes=200, progress=False)
    assert {"Gata1", "Klf1", "Irf8", "Cebpe"} <= set(grn.regulators)
    assert grn.genes["symbol"].str.match("[A-Z0-9][a-z0-9-]*").mean() > 0.95
