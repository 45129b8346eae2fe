"""Small random networks, tokens and model folders for the tests."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from sccafm.grn.grn import GRN
from sccafm.grn.pairs import Pairs
from sccafm.grn.storage import CellEdges
from sccafm.model.weights import save_efm
from sccafm.nn import EFM, SFM, VGAE, CausalEFM, CausalEFMConfig, EFMConfig, SFMConfig, VGAEConfig
from sccafm.nn.sfm import backbone_config, embedding_config
from sccafm.reference.regulation import POPULARITY, QUESTIONS, Regulation, write_regulation
from sccafm.types import Tokens

GENES = """
SPI1 GATA1 GATA3 PAX5 STAT1 STAT3 IRF1 IRF8 MYC RELA JUN FOS CEBPB RUNX1 TCF7 EBF1 TBX21 KLF4
CD3D CD3E CD4 CD8A CD8B CD19 MS4A1 CD79A CD79B NKG7 GNLY GZMB PRF1 LYZ S100A8 S100A9 CD14 FCGR3A HLA-DRA CD74 ISG15
IFI6 MX1 OAS1 IL7R CCR7 LTB SELL PPBP PF4 HBB GAPDH ACTB B2M VIM FTL TYROBP CST3 IL1B CXCL8 CCL5 IL32
"""
SPECIAL = ("pad", "mask", "sos", "eos")
VOCAB_SIZE, NUM_CONDITIONS = 66, 6  # of the small release
SIZES = {
    "embed_dim": 16,
    "expr_num_bins": 5,
    "expr_hidden_dim": 6,
    "batch_num_bins": 4,
    "batch_hidden_dim": 7,
    "num_layers": 2,
    "num_heads": 2,
}


def sfm_config(**changes) -> SFMConfig:
    return SFMConfig(**SIZES | {"num_factors": 12, "router_hidden_dim": 10, "topk": 4} | changes)


def efm_config(**changes) -> EFMConfig:
    return EFMConfig(**SIZES | changes)


def embedding_sizes(**changes):
    return embedding_config(sfm_config(**changes))


def backbone_sizes(is_causal=False, **changes):
    return dataclasses.replace(backbone_config(sfm_config(**changes)), is_causal=is_causal)


def shaken(module, seed=0):
    """The module in evaluation mode with random values everywhere: in norms, biases and offsets too."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        usual = 1.0 if name.endswith("weight") and tensor.ndim == 1 else 0.0  # of a norm
        tensor.copy_(usual + 0.3 * torch.randn(tensor.shape, generator=generator))
    return module.eval()


def random_sfm(vocab_size=VOCAB_SIZE, num_conditions=NUM_CONDITIONS, seed=0, **changes) -> SFM:
    return shaken(SFM(sfm_config(**changes), vocab_size, num_conditions), seed)


def random_efm(vocab_size=VOCAB_SIZE, num_conditions=NUM_CONDITIONS, seed=0, **changes) -> EFM:
    return shaken(EFM(efm_config(**changes), vocab_size, num_conditions), seed)


def causal_config(**changes) -> CausalEFMConfig:
    sizes = {
        "embed_dim": 8,
        "gene_dim": 16,
        "num_layers": 2,
        "hidden_dim": 10,
        "pool_heads": 3,
        "cell_dim": 12,
        "head_dim": 6,
    }
    return CausalEFMConfig(**sizes | {"species": (1, 2)} | changes)


def random_causal_efm(vocab_size=VOCAB_SIZE, seed=0, **changes) -> CausalEFM:
    return shaken(CausalEFM(causal_config(**changes), vocab_size), seed)


def random_regulation(size: int) -> Regulation:
    """Made-up tables of the edge model."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 2, size, 4)).astype(np.float32)
    names = [name for names in POPULARITY.values() for name in names]
    maps = {question: {"intercept": -1.0, "slopes": [0.5, 1.0, 0.2, 0.1], "base_rate": 0.3} for question in QUESTIONS}
    return Regulation(source, target, {name: rng.normal(size=size).astype(np.float32) for name in names}, maps)


def random_vgae(seed=0, **changes) -> VGAE:
    return shaken(VGAE(VGAEConfig(**{"hidden_dim": 8} | changes)), seed)


def random_tokens(cells=3, genes=9, vocab_size=30, num_conditions=NUM_CONDITIONS, seed=0, padded=False) -> Tokens:
    """Half of the values zero, a third of the genes regulators; with padding the cells differ in length."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(cells, genes, generator=generator) * 3
    lengths = torch.tensor([genes - 2 * cell for cell in range(cells)])
    is_tf = torch.arange(genes) % 3 == 0
    return Tokens(
        gene_ids=torch.stack([torch.randperm(vocab_size, generator=generator)[:genes] for _ in range(cells)]),
        expression=values * (torch.rand(cells, genes, generator=generator) < 0.5),
        conditions=torch.randint(num_conditions, (cells, 4), generator=generator),
        is_tf=is_tf.expand(cells, -1),
        is_padding=torch.arange(genes) >= lengths[:, None] if padded else None,
    )


def write_tables(folder: Path) -> Path:
    """Vocabulary, conditions and CSVs of a small release in the flat layout; token 5 is skipped."""
    (folder / "models").mkdir(parents=True)
    special = [{"token_index": i, "gene_symbol": None, "gene_id": f"<{w}>"} for i, w in enumerate(SPECIAL)]
    genes = [
        {"token_index": 6 + i, "gene_symbol": symbol, "gene_id": f"ENSG{i:011}"}
        for i, symbol in enumerate(GENES.split())
    ]
    write_json(folder / "models/vocab.json", [*reversed(genes), *special])
    words = ["<unk>", "human", "mouse", "blood", "normal", "10x 3' v3"]
    write_json(folder / "models/cond_dict.json", [{"cond_value": w, "token_index": i} for i, w in enumerate(words)])
    acting = GENES.split()[:18]
    (folder / "human_tfs.csv").write_text("\n".join(["TF", *acting]))
    (folder / "mouse_tfs.csv").write_text("\n".join(["TF", *(gene.title() for gene in acting)]))
    edges = [f"{acting[i % 18]},{gene}" for i, gene in enumerate(GENES.split()) if acting[i % 18] != gene]
    (folder / "OmniPath.csv").write_text("\n".join(["Gene1,Gene2", *edges]))
    homologs = [f"ENSMUSG{i:011},{gene.title()},ENSG{i:011},{gene}" for i, gene in enumerate(GENES.split())]
    columns = "mouse_EnsemblID,mouse_Symbol,human_EnsemblID,human_Symbol"
    (folder / "homologous.csv").write_text("\n".join([columns, *homologs]))
    ids = [""] * 6 + [f"ENSG{i:011}" for i in range(len(genes))]
    write_regulation(folder / "models", random_regulation(len(ids)), ids)
    return folder


def write_release(
    folder: Path, sfm: SFM, vgae: VGAE | None = None, efm: EFM | CausalEFM | None = None, prefix=True
) -> Path:
    """A small model folder of the flat layout; without `prefix` the structure module's state stands alone."""
    write_tables(folder)
    sections = {"sfm": sfm.config, "vgae": VGAEConfig() if vgae is None else vgae.config}
    write_json(folder / "models/sfm_config.json", {k: dataclasses.asdict(v) for k, v in sections.items()})
    parts = {"foundation_modules.sfm." if prefix else "": sfm} | ({} if vgae is None else {"head_modules.vgae.": vgae})
    weights = {prefix + key: tensor for prefix, part in parts.items() for key, tensor in part.state_dict().items()}
    save_file(weights, folder / "models/sfm_model.safetensors")
    if efm is not None:
        save_efm(folder / "models", efm)
    return folder


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def made_grn(levels, weights, obs=None, *, expression=None, groups=None, keep_factors=True, signs=None, context=None):
    """Networks whose scores are known: regulator i of cell c has the score ``levels[c, i] * weights[i, j]`` on target j.

    Genes are r0, r1, ... (the regulators), then g0, g1, ...; `weights` is regulators x genes in this order.
    """
    levels, weights = np.asarray(levels, np.float32), np.asarray(weights, np.float32)
    (n_cells, n_regulators), n_genes = levels.shape, weights.shape[1]
    cells = pd.Index([f"cell{i}" for i in range(n_cells)])
    names = [f"r{i}" for i in range(n_regulators)] + [f"g{i}" for i in range(n_genes - n_regulators)]
    genes = pd.DataFrame(
        index=names, data={"symbol": names, "gene_id": names, "is_tf": np.arange(n_genes) < n_regulators}
    )
    groups = pd.Series(pd.Categorical(["all"] * n_cells), cells, name="all") if groups is None else groups
    codes = groups.cat.codes.to_numpy()
    shape = (n_regulators, n_genes)
    pairs = Pairs(
        np.zeros(shape, bool), np.zeros(shape, np.int16), ("",),
        np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32),
        np.zeros(shape, np.int8) if signs is None else np.asarray(signs, np.int8),
        np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32), 0,
    )  # fmt: skip
    own = weights.copy()
    own[np.arange(n_regulators), np.arange(n_regulators)] = 0
    each = np.arange(n_regulators, dtype=np.uint16)
    arrays = {
        "context": np.full((n_cells, n_regulators), 1 / n_regulators, np.float32) if context is None else context,
        "summary": np.zeros((n_cells, 2), np.float32),
        "strengths": levels * own.sum(1),
        "regulator_expression": np.ones_like(levels) if expression is None else np.asarray(expression, np.float32),
    }
    if keep_factors:
        arrays |= {
            "u_index": np.tile(each[:, None], (n_cells, 1, 1)),
            "u_value": levels[:, :, None],
            "v_index": np.tile(each, (n_cells, n_genes, 1)),
            "v_value": np.tile(weights.T, (n_cells, 1, 1)),
        }
    sums = {
        "scores": np.stack([levels[codes == k].sum(0, dtype=float)[:, None] * weights for k in range(codes.max() + 1)]),
        "expression": np.zeros((codes.max() + 1, n_genes)),
        "u": np.zeros((n_regulators, n_regulators)),
        "v": np.zeros((n_genes, n_regulators)),
    }
    factors = [f"factor_{m:03d}" for m in range(n_regulators)]
    params = {"factors": factors, "calibration": {}, "run": {"keep_factors": keep_factors, "groupby": None}}
    obs = pd.DataFrame(index=cells) if obs is None else obs.set_axis(cells)
    return GRN(cells, genes, groups, CellEdges.join([]), pairs, sums, arrays, params, obs)
