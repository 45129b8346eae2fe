"""Embedding: vectors of the cells and genes of one data set, in memory and on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from safetensors.numpy import load_file, save_file

from sccafm._docs import shared_parameters
from sccafm._io import new_folder, whole_path, write_table, write_whole
from sccafm.data.groups import ALL
from sccafm.embedding.anchor import Anchor
from sccafm.grn.annotation import storable
from sccafm.model.model import Model
from sccafm.model.weights import load_causal_efm, save_efm
from sccafm.nn import CausalEFM

FORMAT = 3
ADAPTED = "adapted"  # folder of an adapted embedding module, beside the vectors


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors of the cells and genes of one data set. Made by `sccafm.embed` and `sccafm.read_embedding`."""

    cells: pd.DataFrame  # cells x width, float32: anchored, or with anchor=False the same as zero_shot
    zero_shot: pd.DataFrame = field(repr=False)  # cells x D, float32: the embedding module's vectors
    groups: pd.Series  # group of each cell, categorical; "all" without groupby
    gene_table: pd.DataFrame = field(repr=False)  # index name; columns symbol, gene_id, is_tf
    sums: np.ndarray = field(repr=False)  # groups G width float64: contextual vectors, summed over a group's cells
    static_genes: pd.DataFrame = field(repr=False)  # G x width, the gene's vector whatever the cell
    columns: tuple[str, ...] = field(repr=False)  # what the entries of a contextual gene vector are
    params: dict = field(repr=False)  # run card
    anchor: Anchor | None = field(default=None, repr=False)  # the space of `cells`; None with anchor=False
    model: Model | None = field(default=None, repr=False)  # what embedded them, adapted where that was asked for
    adapted: CausalEFM | None = field(default=None, repr=False)  # the adapted embedding module, where one was kept
    adata: object = field(default=None, repr=False)  # the annotated copy, with copy=True

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        groups = (
            "" if self.groups.name == ALL else f", groups of {self.groups.name}: {list(self.groups.cat.categories)}"
        )
        how = "zero-shot" if self.anchor is None else "anchored"
        return (
            f"Embedding of {len(self):,} cells ({self.cells.shape[1]} wide, {how}) and {len(self.gene_table):,} genes "
            f"({len(self.columns)} wide){groups}; {self.params['kind']} module of model {self.params['model']}"
            f"{'' if self.adapted is None else ', adapted to these cells'}"
        )

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Contextual vector of each gene, mean over all cells: genes x width, float32.

        Columns `state_*` say what the gene is in these cells; with this library's module `source_*` and `target_*` say what
        it would regulate and what regulates it: ``source @ target.T`` for the regulators' rows (``gene_table["is_tf"]``). Source
        vectors of other genes were hardly trained and mean little.
        """
        return self._frame(self.sums.sum(0) / len(self))

    @cached_property
    def genes_by_group(self) -> dict[str, pd.DataFrame]:
        """The same as a mean over each group's cells."""
        counts = self.groups.value_counts(sort=False)
        return {name: self._frame(self.sums[i] / counts[name]) for i, name in enumerate(self.groups.cat.categories)}

    def _frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values.astype(np.float32), self.gene_table.index, list(self.columns))

    @shared_parameters
    def place(
        self,
        adata,
        model: Model | str | Path | None = None,
        *,
        own_mean: bool = False,
        layer: str | None = None,
        gene_key: str | None = None,
        species: str | None = None,
        condition_keys: Mapping[str, str] | None = None,
        preprocess: str = "auto",
        batch_size: int | str = "auto",
        device: str = "auto",
        key_added: str = "X_sccafm",
        copy: bool = False,
        progress: bool = True,
    ) -> "Embedding":
        """Place other cells into this anchored space: their vectors compare with those of `cells`.

        Parameters
        ----------
        adata
            Other cells, with at least half of the genes that these were read on; of either species.
        model
            The model that made this embedding; None: the one it holds, or after `sccafm.read_embedding` the bundled one. An adapted
            embedding module is this embedding's own (`adapted`), in memory and in its folder.
        own_mean
            New cells depart from their own mean and not from that of this embedding's cells; where it was made with
            `batch_key`, they are then corrected as one batch more. That takes away what sets the two data sets apart, and is
            right where both hold about the same mixture of cells.
        %(layer)s
        %(gene_key)s
        %(species)s
        %(condition_keys)s
        %(preprocess)s
        %(batch_size)s
        %(device)s
        %(key_added)s
        copy
            Leave `adata` alone and annotate a copy, `Embedding.adata`.
        %(progress)s

        Returns
        -------
        Embedding
            Of the new cells, in the same space; `adata` is annotated as by `sccafm.embed`.

        Raises
        ------
        ValueError
            This embedding is not anchored, was corrected by Harmony, or was made by other weights; fewer than half of the
            genes are there; or what `sccafm.embed` refuses.
        """
        from sccafm.embedding.place import place

        return place(
            self, adata, model, own_mean=own_mean, layer=layer, gene_key=gene_key, species=species,
            condition_keys=condition_keys, preprocess=preprocess, batch_size=batch_size, device=device,
            key_added=key_added, copy=copy, progress=progress,
        )  # fmt: skip

    def to_adata(self) -> AnnData:
        """The vectors as an AnnData without values, to be written to zarr or h5ad.

        Returns
        -------
        AnnData
            Cells x genes; ``obsm["X_sccafm"]`` (`cells`), ``obsm["X_sccafm_zero_shot"]`` (`zero_shot`), ``varm["X_sccafm"]`` (`genes`),
            float32; obs has the column group, var symbol, gene_id and is_tf; ``uns["X_sccafm"]["params"]``.
        """
        found = AnnData(
            obs=pd.DataFrame({"group": self.groups.array}, index=self.cells.index), var=self.gene_table.copy()
        )
        found.obsm["X_sccafm"] = self.cells.to_numpy(copy=True)
        found.obsm["X_sccafm_zero_shot"] = self.zero_shot.to_numpy(copy=True)
        found.varm["X_sccafm"] = self.genes.to_numpy(copy=True)
        found.uns["X_sccafm"] = {"params": storable(self.params)}
        return found

    def write(self, folder: str | Path) -> Path:
        """Write to a folder that is new or empty: parquet, safetensors, JSON. `sccafm.read_embedding` reads it."""
        folder = new_folder(folder)
        self.write_files(folder)
        return folder

    def write_files(self, folder: Path) -> None:
        """The same into a folder that exists; embedding.json is written last."""
        arrays = {
            "zero_shot": self.zero_shot.to_numpy(),
            "gene_sums": self.sums,
            "static_genes": self.static_genes.to_numpy(),
        }
        if self.anchor is not None:
            arrays |= {"cells": self.cells.to_numpy()} | {f"anchor.{k}": v for k, v in self.anchor.arrays().items()}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        if self.adapted is not None:
            (folder / ADAPTED).mkdir(exist_ok=True)
            save_efm(folder / ADAPTED, self.adapted)
        labels = pd.DataFrame({"cell": self.cells.index.astype(str), "group": self.groups.array})
        write_table(labels, folder / "cells.parquet")
        write_table(self.gene_table.rename_axis("name").reset_index(), folder / "genes.parquet")
        write_whole(folder / "vectors.safetensors", lambda p: save_file(arrays, p))
        header = {"format": FORMAT, "groupby": self.groups.name, "columns": list(self.columns), "params": self.params}
        write_whole(folder / "embedding.json", lambda p: p.write_text(json.dumps(header, indent=1) + "\n"))


def read_embedding(folder: str | Path) -> Embedding:
    """Read what `Embedding.write` wrote.

    Raises
    ------
    FileNotFoundError
        The folder holds no embedding.
    ValueError
        It was written by another version.
    """
    folder = whole_path(folder)
    path = folder / "embedding.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no embedding: it has no embedding.json")
    header = json.loads(path.read_text())
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {header.get('format')}, this version reads {FORMAT}; embed again")
    arrays = load_file(folder / "vectors.safetensors")
    labels = pd.read_parquet(folder / "cells.parquet")
    genes = pd.read_parquet(folder / "genes.parquet").set_index("name").rename_axis(None)
    cells = pd.Index(labels["cell"]).rename(None)
    groups = labels["group"].astype("category").set_axis(cells).rename(header["groupby"])
    anchor = {k.removeprefix("anchor."): v for k, v in arrays.items() if k.startswith("anchor.")}
    zero_shot = cell_frame(arrays["zero_shot"], cells)
    adapted = folder / ADAPTED
    return Embedding(
        cells=cell_frame(arrays["cells"], cells) if anchor else zero_shot,
        zero_shot=zero_shot,
        groups=groups,
        gene_table=genes,
        sums=arrays["gene_sums"],
        static_genes=static_frame(arrays["static_genes"], genes.index),
        columns=tuple(header["columns"]),
        params=header["params"],
        anchor=Anchor(**anchor) if anchor else None,
        adapted=load_causal_efm(adapted) if adapted.is_dir() else None,
    )


def cell_frame(values: np.ndarray, cells: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values, cells, [f"cell_{i:03d}" for i in range(values.shape[1])])


def static_frame(values: np.ndarray, names: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values, names, [f"static_{i:03d}" for i in range(values.shape[1])])
