"""fit_head: a head is judged on groups that were held out, then fitted to all cells."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from sccafm._docs import shared_parameters
from sccafm._settings import logger
from sccafm._text import warn
from sccafm._torch import plain_torch
from sccafm.data.input import DEFAULTS, prepare
from sccafm.data.options import InputOptions
from sccafm.grn.grn import GRN
from sccafm.grn.reuse import check_grn, check_same_values
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_settings, forward_batch_size
from sccafm.model.weights import module_hash
from sccafm.nn import CausalEFM
from sccafm.tl.cells import Cells
from sccafm.tl.heads import Head, Tuned
from sccafm.tl.networks import Fit, Frozen, Settings
from sccafm.tl.scores import fit_temperature, judged, make_folds
from sccafm.tl.tuning import Finetune, Finetuned, read_finetune, training_bar
from sccafm.tl.vectors import check_cells, embedding_hash, vectors, warn_of_unused

KINDS, NETWORKS = ("classify", "regress"), ("linear", "mlp")


@plain_torch()
@shared_parameters
def fit_head(
    adata: AnnData,
    target: str,
    *,
    kind: str = "classify",
    groups: str | None = None,
    use_rep: str = "X_sccafm_zero_shot",
    network: str = "linear",
    n_folds: int = 5,
    random_state: int = 0,
    finetune: str | Finetune | None = None,
    model: Model | str | Path | None = None,
    grn: GRN | None = None,
    genes: Sequence[str] | None = None,
    n_top_genes: int | None = DEFAULTS.n_top_genes,
    layer: str | None = None,
    gene_key: str | None = None,
    species: str | None = None,
    condition_keys: Mapping[str, str] | None = None,
    preprocess: str = DEFAULTS.preprocess,
    batch_size: int | str = "auto",
    device: str = "auto",
    progress: bool = True,
) -> Head:
    """Fit a head on the cells' vectors, which stay as they are, or with `finetune` on vectors that learn with it.

    Parameters
    ----------
    adata
        Cells with vectors in obsm: `sccafm.embed` puts them there. With `finetune`: cells as `sccafm.embed` takes them.
    target
        Column of obs: labels to classify, or numbers. Cells without one are left out.
    kind
        "classify" or "regress".
    groups
        Column of obs whose values are never split between fitting and judging: donor, patient, plate, cell line. None:
        folds of cells at random, which flatter where cells of one donor are alike.
    use_rep
        Field of obsm; not looked at with `finetune`.
    network
        "linear": penalised logistic or ridge regression, the penalty chosen by folds (of whole groups) of the cells that are fitted; or
        "mlp" with one hidden layer, which learns as long as such folds gain by it.
    n_folds
        Folds of whole groups, at most one a group.
    random_state
        Of folds, networks and training.
    finetune
        Train the embedding module too, from the model's and on these labels: "5 epochs" or a `Finetune`. That is done in
        each fold anew, without the cells that are held out, and at last on all cells. The structure module stands still,
        and the model that was passed stays as it is. An epoch takes about as long as the structure module needs for the
        same cells, about 0.1 s a cell on a CPU, and there is one more fit than folds. What the structure module found is kept
        in memory, half a megabyte a cell at 2,250 genes; with more cells than that allows, pass `grn` of a ``store=``.
    grn
        With `finetune` alone, and so are the following: networks of these cells, inferred with ``keep_factors=True``. Genes are chosen once, on all cells of `adata`, by how they vary and
        never by the target: held-out cells have a say in which genes are read, and in nothing else.
    %(model)s
    %(genes)s
    %(n_top_genes)s
    %(layer)s
    %(gene_key)s
    %(species)s
    %(condition_keys)s
    %(preprocess)s
    %(batch_size)s
    %(device)s
    progress
        With `finetune`: print the receipt and show bars.

    Returns
    -------
    Head
        Fitted to all cells. `Head.scores` has what was found on held-out folds: accuracy, macro-F1 and the expected
        calibration error of the probabilities, or R2 and Spearman's correlation. Probabilities are calibrated by a
        temperature (Guo et al. 2017) that is fitted to held-out predictions. With `finetune` the head carries its embedding
        module, `Head.tuned`, in memory and in its folder.

    Raises
    ------
    KeyError
        A column of obs or field of obsm is absent.
    ValueError
        Fewer than two labels, groups or cells, values that are no numbers, or, with `finetune`, what `sccafm.embed` refuses.
    """
    finetune = read_finetune(finetune)
    options = InputOptions(
        genes=genes,
        n_top_genes=n_top_genes,
        layer=layer,
        gene_key=gene_key,
        species=species,
        condition_keys=condition_keys,
        preprocess=preprocess,
    )
    rep = use_rep if finetune is None else None
    settings = Settings(kind, network, target, rep, groups, random_state=random_state)
    is_known = check_input(adata, settings, n_folds)
    obs = adata.obs[is_known]
    y, classes = read_target(obs[target], kind)
    if classes and groups:
        check_labels_of_groups(obs[target], obs[groups])
    settings = dataclasses.replace(settings, labels=label_type(obs[target]) if classes else "text")
    folds = make_folds(obs, groups, n_folds, random_state)
    if finetune is None:
        warn_of_unused("without finetune=", options, model=model, grn=grn, batch_size=batch_size, device=device)
        x = vectors(adata, use_rep)[is_known]
        kin = obs[groups].astype(str).to_numpy() if groups else None
        outputs, found = cross_fit(Frozen(x, y, settings, len(classes), kin), y, folds, len(classes))
        made_by, tuned = embedding_hash(adata, use_rep), None
    else:
        if use_rep != "X_sccafm_zero_shot":
            warn("use_rep= has no effect with finetune=, which reads expression")
        check_settings(batch_size, options)
        model = as_model(model, device)
        efm = own_module(model)
        check_grn(adata, grn, model, genes)
        model_input = prepare(adata, model, options.of_networks(grn))
        if grn is not None:
            check_same_values(grn, model_input)
        if progress:
            logger.info(model_input.receipt)
        cells = Cells(
            model, model_input, np.flatnonzero(is_known), grn, forward_batch_size(batch_size, model), progress
        )
        with training_bar(finetune, folds, progress) as bar:
            learner = Finetuned(efm, cells, y, settings, finetune, len(classes), bar)
            outputs, found = cross_fit(learner, y, folds, len(classes))
        assert found.efm is not None  # `Finetuned` has made one
        tuned = Tuned(
            found.efm, finetune, model_input.gene_ids, tuple(model_input.symbols.astype(str)), model_input.is_tf, preprocess,
            model.weights_hash, model.source,
        )  # fmt: skip
        made_by = module_hash(found.efm)
    temperature = fit_temperature(outputs, y) if classes else 1.0
    named = obs[groups].astype(str).to_numpy() if groups else None
    return Head(
        settings, classes, found.network, found.center, found.scale, temperature,
        judged(outputs / temperature, y, folds, named, kind), frame(outputs / temperature, classes, obs.index),
        made_by, tuned,
    )  # fmt: skip


def cross_fit(learner: Frozen | Finetuned, y: Tensor, folds: np.ndarray, n_classes: int) -> tuple[Tensor, Fit]:
    """What is said of each cell by a fit that has not seen its fold, C classes or C 1, and a fit to all cells."""
    outputs = torch.zeros(len(y), n_classes or 1)
    for fold in np.unique(folds):
        here = folds == fold
        outputs[here] = learner.outputs(learner.fit(~here), here)
        if n_classes:  # a label that no other fold holds cannot be named
            outputs[here] = outputs[here].index_fill(1, absent(y[~here], n_classes), -1e4)
    return outputs, learner.fit(np.ones(len(y), dtype=bool))


def check_input(adata: AnnData, settings: Settings, n_folds: int) -> np.ndarray:
    """Which cells can be used: C bool."""
    check_cells(adata)
    if settings.kind not in KINDS:
        raise ValueError(f'kind must be "classify" or "regress", got {settings.kind!r}')
    if settings.network not in NETWORKS:
        raise ValueError(f'network must be "linear" or "mlp", got {settings.network!r}')
    if not isinstance(n_folds, int) or n_folds < 2:
        raise ValueError(f"n_folds must be a whole number of at least 2, got {n_folds!r}")
    is_known = np.ones(adata.n_obs, dtype=bool)
    for key, option in ((settings.target, "target"), (settings.groups, "groups")):
        if key is not None and key not in adata.obs:
            raise KeyError(f"{option}={key!r} is no column of obs; there are {list(adata.obs.columns)}")
        is_known &= True if key is None else adata.obs[key].notna().to_numpy()
    if is_known.sum() < 4:
        raise ValueError(f"{is_known.sum()} cells have a {settings.target!r} and a group; at least 4 are needed")
    return is_known


def own_module(model: Model) -> CausalEFM:
    """The embedding module to fine-tune; refuses a model without one of this library's."""
    if model.efm is None:
        raise ValueError(
            f"the model from {model.source} has no embedding module to fine-tune; use the bundled one, model=None, or train "
            "one: python -m sccafm.train efm"
        )
    if not isinstance(model.efm, CausalEFM):
        raise ValueError(
            "the published embedding module cannot be fine-tuned; load a model with this library's, e.g. sccafm.load(), or "
            "fit a head on its frozen vectors"
        )
    return model.efm


def read_target(column: pd.Series, kind: str) -> tuple[Tensor, tuple[str, ...]]:
    if kind == "classify":
        codes, names = pd.factorize(column.astype(str), sort=True)
        if len(names) < 2:
            raise ValueError(f"{column.name!r} names a single label, {names[0]!r}; two are needed")
        if pd.api.types.is_float_dtype(column) and (column % 1 != 0).any():
            raise ValueError(
                f'{column.name!r} holds numbers, such as {names[0]}, and no labels; for numbers: kind="regress"'
            )
        if len(names) == len(column):
            raise ValueError(
                f"{column.name!r} names another label for each of {len(column):,} cells; a label has to recur"
            )
        return torch.from_numpy(codes), tuple(names)
    try:
        values = pd.to_numeric(column).to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{column.name!r} holds no numbers ({error}); for labels: kind="classify"') from error
    if not np.isfinite(values).all():
        raise ValueError(
            f"{column.name!r} holds {(~np.isfinite(values)).sum():,} values that are not finite; make them NaN to leave them out"
        )
    if np.ptp(values) == 0:
        raise ValueError(f"{column.name!r} is {values[0]} in every cell; there is nothing to learn")
    return torch.from_numpy(values), ()


def label_type(column: pd.Series) -> str:
    """What labels were before they became text: `predict` writes them as they were."""
    kinds = {"bool": pd.api.types.is_bool_dtype, "int": pd.api.types.is_integer_dtype}
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return next((name for name, holds in kinds.items() if holds(values)), "text")


def check_labels_of_groups(labels: pd.Series, groups: pd.Series) -> None:
    """A label that one group alone holds is never known while that group is held out."""
    spread = groups.astype(str).groupby(labels.astype(str).to_numpy()).nunique()
    if (spread == 1).all() and groups.nunique() > 1:
        raise ValueError(
            f"each label of {labels.name!r} is held by one group of {groups.name!r} alone, so that no held-out group can be judged; "
            "leave groups= out, or name a column that parts the labels"
        )


def absent(y: Tensor, n_classes: int) -> Tensor:
    return (torch.bincount(y, minlength=n_classes) == 0).nonzero()[:, 0]


def frame(outputs: Tensor, classes: tuple[str, ...], cells: pd.Index) -> pd.DataFrame:
    values = torch.softmax(outputs, 1) if classes else outputs
    return pd.DataFrame(values.numpy(), cells, list(classes) or ["value"])
