"""knockout: what a network expects of the loss of a gene, beside what other perturbations did."""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sccafm._text import warn
from sccafm.embedding.embed import embed
from sccafm.evaluate.baselines import dense_columns
from sccafm.evaluate.baselines import expression as expression_of
from sccafm.grn.grn import GRN
from sccafm.model.validation import check_key
from sccafm.tl.activity import shared_genes
from sccafm.tl.perturbed import Judged, judge
from sccafm.tl.propagation import propagate, signed_shares
from sccafm.tl.shared import check_grn, obs_of

UNJUDGED = (
    "Not judged: no perturbed cells were given (perturbations=). Networks from expression alone have rarely been better than the "
    "mean of other perturbations."
)


@dataclass(frozen=True, eq=False)
class Knockout:
    """What the loss (or gain) of genes is expected to change. Made by `sccafm.tl.knockout`."""

    genes: tuple[str, ...]
    direction: str
    expression: pd.DataFrame  # a row per gene
    vector: pd.DataFrame | None  # change of cells' vectors, cells x width
    judged: Judged | None = field(repr=False)
    n_steps: int = 3

    @property
    def verdict(self) -> str:
        """Whether the expected change is above the mean of other perturbations, in words."""
        return UNJUDGED if self.judged is None else self.judged.verdict

    def __repr__(self) -> str:
        others = "mean_of_others" in self.expression
        lines = [
            f"{self.direction} of {' + '.join(self.genes)}, {self.n_steps} steps along the signed network: expected change of mean "
            "log expression" + (", beside the mean of other perturbations" if others else "")
        ]
        for row in self.expression.head(8).itertuples():
            beside = f" (others {row.mean_of_others:+.4f})" if others else ""
            lines.append(f"  {row.gene} {row.change:+.4f}{beside}")
        return "\n".join([*lines, f"  {self.verdict}"])


def knockout(
    adata: AnnData,
    genes: str | Sequence[str],
    grn: GRN,
    *,
    group: object = None,
    direction: str = "loss",
    n_steps: int = 3,
    unsigned: str = "activates",
    perturbations: AnnData | None = None,
    perturbation_key: str = "condition",
    control: str = "control",
    strata_key: str | None = None,
    n_vectors: int = 0,
    model=None,
    layer: str | None = None,
    key_added: str = "knockout",
    copy: bool = False,
) -> Knockout:
    """Propagate the loss of genes through the signed mean network.

    The model is linear and has no parameter fitted to perturbations: a target follows its regulators by their signed share in
    its regulation, for `n_steps` steps (`sccafm.tl.propagation` has the equations). The result is read beside the mean of other
    perturbations, where such data are given, and its `verdict` abstains where it is not above that.

    Parameters
    ----------
    adata
        Cells whose mean expression is changed: those of the networks. Counts are log-normalised.
    genes
        A regulator, or several that are lost together.
    grn
        Networks of these cells.
    group
        Group of the inference: its mean network and its cells. None: all.
    direction
        "loss" or "gain" (an activation screen).
    n_steps
        Steps along the network; 1: direct targets alone.
    unsigned
        Edges of unknown sign: "activates" counts them as activating, as decoupler's networks do; "ignore" leaves them out.
    perturbations
        Cells of a perturbation screen with the same gene names, controls among them. Labels of two genes are "A+B".
    perturbation_key, control
        Its column of obs with what was perturbed, and the label of its control cells.
    strata_key
        Its column (cell line, batch) within which cells are compared.
    n_vectors
        First so many cells whose vector (`sccafm.embed`) is computed before and after the change. 0: none.
    model
        For the vectors: as in `sccafm.embed`.
    layer
        Layer of both AnnData to read. None: X.
    key_added
        Key of uns.
    copy
        Leave `adata` alone.

    Returns
    -------
    Knockout
        `expression`: gene, change (expected change of mean log expression), relative (of the gene's own level, -1 to 1), direct
        (the part of it after one step), known_sign (share of what regulates the gene whose sign is known) and, with
        perturbations, mean_of_others and observed (NaN where this perturbation is not among them); the largest changes first.
        `vector`: change of each vector, float32. `verdict`. In `adata`: ``uns["knockout"]`` with the table and the verdict.

    Warns
    -----
    UserWarning
        A lost gene is not detected in these cells.

    Raises
    ------
    KeyError
        A gene is not there, or no such group or column.
    ValueError
        A gene regulates nothing in these networks, settings that are none, or networks of other cells or genes.

    Notes
    -----
    Ahlmann-Eltze, Huber and Anders (Nature Methods 2025) found no deep model above the mean of other perturbations.
    """
    check_key(key_added)
    check_grn(grn)
    for name, value, known in (
        ("direction", direction, ("loss", "gain")),
        ("unsigned", unsigned, ("activates", "ignore")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be 1 or more, got {n_steps}")
    obs_of(grn, adata)
    names = [genes] if isinstance(genes, str) else list(genes)
    check_genes(names, grn)
    shares, known = signed_shares(grn, group, unsigned)
    cells = grn.cells if group is None else grn.cells[(grn.groups == str(group)).to_numpy()]
    x, all_names = expression_of(adata[cells], layer)
    places = shared_genes(adata, grn, all_names)
    read = grn.targets.get_indexer(places.index)
    values = np.zeros((len(cells), len(grn.targets)))
    values[:, read] = dense_columns(x, places.to_numpy())
    mean = values.mean(0)
    silent = [name for name in names if mean[grn.targets.get_loc(name)] == 0]
    if silent:
        warn(f"{', '.join(silent)}: not detected in these cells; its place in the network is inferred")
    own = grn.targets.get_indexer(grn.regulators)
    amount = -1.0 if direction == "loss" else 1.0

    def relative(lost: Sequence[str]) -> np.ndarray:
        return propagate(shares, own, grn.targets.get_indexer(list(lost)), amount, n_steps)

    steps = relative(names)
    table = pd.DataFrame({"gene": grn.targets, "change": steps[-1] * mean, "relative": steps[-1], "direct": steps[0]})
    table["known_sign"] = known
    judged = None
    if perturbations is not None:
        screen = (perturbations, perturbation_key, control, strata_key, layer)
        judged = judge(lambda lost: relative(lost)[-1] * mean, grn.regulators, grn.targets, *screen)
        table["mean_of_others"], table["observed"] = beside(judged.observed, names)
    order = np.argsort(-table["change"].abs().to_numpy(), kind="stable")
    vector = None
    if n_vectors:
        vector = moved(adata[cells[:n_vectors]], values[:n_vectors], steps[-1], grn, model)
    found = Knockout(tuple(names), direction, table.iloc[order].reset_index(drop=True), vector, judged, n_steps)
    if not copy:
        adata.uns[key_added] = {"expression": found.expression, "genes": list(names), "verdict": found.verdict}
    return found


def check_genes(names: list[str], grn: GRN) -> None:
    if not names:
        raise ValueError("genes= is empty; name a regulator, or several that are lost together")
    spelled = {str(gene).upper(): str(gene) for gene in grn.targets}
    for name in names:
        if name not in grn.targets:
            near = difflib.get_close_matches(str(name), list(grn.targets), 3, 0.5)
            near = [spelled[str(name).upper()]] if str(name).upper() in spelled else near
            hint = f"; did you mean {', '.join(near)}?" if near else "."
            raise KeyError(
                f"{name!r} is no gene of these networks{hint} If the data and the model's vocabulary hold it (the receipt tells what was "
                f"lost), infer with always=[{name!r}] to read it"
            )
        if name not in grn.regulators:
            raise ValueError(
                f"{name!r} is no regulator of these networks, so nothing would change; infer with always=[{name!r}]"
            )


def beside(observed: pd.DataFrame, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean change of perturbations that share no gene with these, and the change of this very one (NaN if absent): G each."""
    genes = {label: set(label.split("+")) for label in observed.index}
    others = [label for label, theirs in genes.items() if not theirs & set(names)]
    same = [label for label, theirs in genes.items() if theirs == set(names)]
    mean = observed.loc[others].mean().to_numpy()
    return mean, observed.loc[same].mean().to_numpy() if same else np.full(observed.shape[1], np.nan)


def moved(adata: AnnData, values: np.ndarray, relative: np.ndarray, grn: GRN, model) -> pd.DataFrame:
    """Change of cells' vectors where every gene changes by its relative change; log expression stays at 0 or above."""
    after = np.maximum(values * (1 + relative), 0)
    obs = pd.concat([adata.obs, adata.obs]).set_axis([f"{c}{k}" for k in ("/0", "/1") for c in adata.obs_names])
    both = AnnData(
        sparse.csr_matrix(np.concatenate([values, after]), dtype=np.float32), obs, pd.DataFrame(index=grn.targets)
    )
    for key in ("organism", "species", "organism_ontology_term_id"):
        if key in adata.uns:
            both.uns[key] = adata.uns[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that values are normalised
        settings = {"genes": list(grn.targets), "preprocess": "none", "anchor": False, "progress": False}
        found = embed(both, model, **settings).zero_shot.to_numpy()
    half = len(adata)
    return pd.DataFrame((found[half:] - found[:half]).astype(np.float32), adata.obs_names)
