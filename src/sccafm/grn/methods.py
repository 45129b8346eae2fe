"""A paragraph for the methods section of a paper, from what a run says of itself."""

from collections.abc import Mapping

REFERENCES = {
    "scanpy": "Wolf FA et al. SCANPY: large-scale single-cell gene expression data analysis. Genome Biol 19, 15 (2018).",
    "collectri": "Müller-Dott S et al. Expanding the coverage of regulons from high-confidence prior knowledge for accurate "
    "estimation of transcription factor activities. Nucleic Acids Res 51, 10934-10949 (2023).",
    "trrust": "Han H et al. TRRUST v2: an expanded reference database of human and mouse transcriptional regulatory "
    "interactions. Nucleic Acids Res 46, D380-D386 (2018).",
    "lambert": "Lambert SA et al. The human transcription factors. Cell 172, 650-665 (2018).",
    "kull": "Kull M et al. Beta calibration: a well-founded and easily implemented improvement on logistic calibration for "
    "binary classifiers. AISTATS, PMLR 54, 623-631 (2017).",
    "bh": "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach to multiple "
    "testing. J R Stat Soc B 57, 289-300 (1995).",
}


def methods_text(params: Mapping, groups: Mapping[str, int] | None = None) -> str:
    """What was done, with numbered references under it.

    Parameters
    ----------
    params
        Run card of a GRN.
    groups
        Cells of each group, where there are groups.
    """
    receipt, run = params["receipt"], params["run"]
    cited: list[str] = []

    def cite(*keys: str) -> str:
        cited.extend(key for key in keys if key not in cited)
        return "[" + ", ".join(str(cited.index(key) + 1) for key in keys) + "]"

    n_lost, n_genes = int(receipt["n_lost"]), int(receipt["n_genes"])
    sentences = [
        f"Gene regulatory networks of {int(receipt['n_cells']):,} {receipt['species']} cells were inferred with sccafm "
        f"{params['version']} (model {params['model']}{revision(params)}, weights {params['weights_hash'][:12]}, PyTorch "
        f"{params['torch']}, {params['device']}).",
        f"The matrix {receipt['matrix']} was read as follows: {receipt['values']} {cite('scanpy')}. Of {n_genes:,} genes "
        f"{n_genes - n_lost:,} were matched to the model's vocabulary; {int(receipt['n_used']):,} were read, "
        f"{int(receipt['n_regulators']):,} of them as regulators {cite('lambert')}.",
        "The structure module scores each regulator and target in each cell as the product of two distributions over "
        f"{len(params['factors'])} latent factors; {kept(run)}. It was trained with a prior network {cite('collectri', 'trrust')}, "
        "and edges that the prior holds are marked.",
    ]
    if groups:
        listed = ", ".join(f"{name} ({n:,})" for name, n in groups.items())
        sentences.append(f"Networks of groups are exact means over their cells ({run['groupby']}: {listed}).")
    if params["calibration"]:
        rate = params["calibration"].get("base_rate")
        assumed = "" if rate is None else f", which assumes that {rate:.0%} of the candidate edges are real"
        sentences.append(f"Confidence is a calibrated probability {cite('kull')}{assumed}.")
    if run["null_cells"]:
        sentences.append(
            f"q-values compare scores with those of {run['null_cells']} cells whose values were permuted {cite('bh')}."
        )
    text = " ".join(sentences)
    return text + "\n\n" + "\n".join(f"{i}. {REFERENCES[key]}" for i, key in enumerate(cited, 1))


def revision(params: Mapping) -> str:
    return f", revision {params['revision']}" if params.get("revision") else ""


def kept(run: Mapping) -> str:
    most = "all edges" if run["top_k"] is None else f"the {run['top_k']:,} strongest edges of a cell"
    least = "" if run["min_weight"] is None else f" with a weight of at least {run['min_weight']:g}"
    return f"{most}{least} were kept"
