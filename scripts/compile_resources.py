"""Compile the tables that ship with sccafm from the resource sources; docs/resources.md states the rules.

Run ``python scripts/compile_resources.py --source DIR``: the same sources give the same bytes on one machine.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from sklearn.feature_extraction.text import TfidfTransformer

ROOT = Path(__file__).resolve().parents[1]
SPECIAL_TOKENS = ("<pad>", "<mask>", "<sos>", "<eos>")
VECTOR_WIDTH = 128
SET_SIZES = (3, 2000)  # smaller sets say nothing about a second gene, larger ones nothing about this one

# AnimalTFDB families of which Lambert 2018 accepts no member (or saw none), or that name no domain at all.
NOT_DNA_BINDING_FAMILIES = {"AF-4", "Others", "Tub", "zf-CCCH", "zf-LITAF-like", "zf-MIZ"}
# Flags that are no source of evidence, or whose source may not be passed on (DoRothEA).
NOT_EVIDENCE = {"in_core_vocab", "in_DoRothEA", "in_DoRothEA_ABC", "in_DoRothEA_mm"}

# The words below are labels that the CELLxGENE schema takes from EFO, UBERON, CL and MONDO, in lower case. Translated
# labels of the training corpus are among them ("PBMC" is "blood"); eccite-seq is its one assay without such a label.
# Append only: the place in the list is the token.
ASSAYS = """
10x 3' v1; 10x 3' v4; 10x 5' v3; 10x multiome; 10x gene expression flex; smart-seq; smart-seq3; smart-seq v4;
sci-rna-seq; seq-well s3; cite-seq; eccite-seq; pip-seq; visium spatial gene expression; slide-seqv2
"""
TISSUES = """
bone marrow; liver; spleen; small intestine; colon; skin of body; breast; adipose tissue; thymus; lymph node; placenta;
retina; eye; embryo; large intestine; duodenum; jejunum; ileum; rectum; sigmoid colon; caecum; stomach; esophagus;
tongue; salivary gland; oral mucosa; gallbladder; bile duct; islet of langerhans; peritoneum; omentum; mesentery;
trachea; bronchus; nose; nasal cavity; nasopharynx; upper respiratory tract; lung parenchyma; pleural effusion; pleura;
heart left ventricle; heart right ventricle; left cardiac atrium; right cardiac atrium; aorta; artery; vein;
vasculature; coronary artery; blood vessel; muscle organ; skeletal muscle tissue; diaphragm; bone; bone tissue;
cartilage tissue; synovial joint; white adipose tissue; brown adipose tissue; visceral fat; subcutaneous adipose tissue;
mammary gland; ovary; fallopian tube; uterus; endometrium; myometrium; uterine cervix; vagina; decidua; umbilical cord;
chorionic villus; yolk sac; testis; prostate gland; urinary bladder; ureter; renal medulla; cortex of kidney;
adrenal gland; thyroid gland; parathyroid gland; pituitary gland; hypothalamus; tonsil; mesenteric lymph node; milk;
urine; saliva; bronchoalveolar lavage fluid; ascitic fluid; cerebrospinal fluid; central nervous system;
cerebral cortex; neocortex; frontal cortex; prefrontal cortex; dorsolateral prefrontal cortex; temporal cortex;
middle temporal gyrus; parietal cortex; occipital cortex; primary visual cortex; primary motor cortex;
entorhinal cortex; cingulate cortex; hippocampal formation; ca1 field of hippocampus;
dentate gyrus of hippocampal formation; amygdala; thalamic complex; striatum; caudate nucleus; putamen;
nucleus accumbens; substantia nigra; midbrain; hindbrain; forebrain; pons; medulla oblongata; cerebellum;
olfactory bulb; olfactory epithelium; spinal cord; dorsal root ganglion; trigeminal ganglion; peripheral nervous system;
meninges; choroid plexus; cornea; lens of camera-type eye; choroid; fovea centralis; inner ear; cochlea; hair follicle;
limb; blastocyst; neural tube; neural crest; somite; gonad; induced pluripotent stem cell; embryonic stem cell
"""
DISEASES = """
covid-19; influenza; pneumonia; sepsis; hiv infectious disease; tuberculosis; malaria; dengue disease; hepatitis b;
lung adenocarcinoma; squamous cell lung carcinoma; non-small cell lung carcinoma; small cell lung carcinoma;
lung cancer; breast cancer; breast carcinoma; triple-negative breast carcinoma; colorectal cancer; colorectal carcinoma;
gastric cancer; pancreatic ductal adenocarcinoma; hepatocellular carcinoma; cholangiocarcinoma;
clear cell renal carcinoma; prostate cancer; bladder carcinoma; ovarian cancer;
high grade ovarian serous adenocarcinoma; head and neck squamous cell carcinoma; melanoma; cutaneous t-cell lymphoma;
basal cell carcinoma; glioblastoma; neuroblastoma; thyroid gland undifferentiated (anaplastic) carcinoma;
thyroid cancer; wilms tumor; ewing sarcoma; cancer; acute myeloid leukemia; acute lymphoblastic leukemia;
b-cell acute lymphoblastic leukemia; chronic lymphocytic leukemia; chronic myelogenous leukemia; plasma cell myeloma;
myelodysplastic syndrome; follicular lymphoma; diffuse large b-cell lymphoma; alzheimer disease; parkinson disease;
multiple sclerosis; dementia; lewy body dementia; frontotemporal dementia; amyotrophic lateral sclerosis;
huntington disease; epilepsy; autism spectrum disorder; schizophrenia; major depressive disorder; down syndrome;
type 1 diabetes mellitus; type 2 diabetes mellitus; obesity; metabolic dysfunction-associated steatotic liver disease;
cirrhosis of liver; primary sclerosing cholangitis; crohn disease; ulcerative colitis; celiac disease;
systemic lupus erythematosus; rheumatoid arthritis; psoriasis; atopic eczema; scleroderma; asthma; cystic fibrosis;
chronic obstructive pulmonary disease; interstitial lung disease; idiopathic pulmonary fibrosis; pulmonary fibrosis;
pulmonary arterial hypertension; dilated cardiomyopathy; hypertrophic cardiomyopathy; heart failure;
myocardial infarction; atherosclerosis; chronic kidney disease; acute kidney failure; diabetic kidney disease;
endometriosis; age-related macular degeneration; glaucoma; osteoarthritis; anemia
"""


def write(path, data):
    """Put bytes at `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_csv(path, table):
    write(path, table.to_csv(index=False, lineterminator="\n").encode())


def write_records(path, records):
    """JSON with one record a line, so that a change shows as its own line."""
    lines = ",\n".join(json.dumps(record) for record in records)
    write(path, f"[\n{lines}\n]\n".encode())


def read(path):
    """Read a CSV in which "NA" and "NaN" are names, not gaps."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def words(text):
    return [word.strip().lower() for word in text.split(";")]


def evidence(table):
    """Join the names of the sources whose flag is set."""
    flags = [name for name in table.columns if name.startswith("in_") and name not in NOT_EVIDENCE]
    names = np.array([name.removeprefix("in_") for name in flags])
    return [";".join(names[row]) for row in table[flags].to_numpy(bool)]


def has_domain(table):
    """Whether both AnimalTFDB releases list the gene, with a domain that binds DNA."""
    family = table["DBD_family"]
    listed = table["in_AnimalTFDB3"].eq(1) & table["in_AnimalTFDB4"].eq(1)
    return listed & family.notna() & ~family.isin(NOT_DNA_BINDING_FAMILIES)


def classify_human(table):
    """Class of each human gene: Lambert 2018 decides where it assessed, AnimalTFDB where it did not."""
    flag = {name: table[name].eq(1) for name in table.columns if name.startswith("in_")}
    in_animaltfdb = flag["in_AnimalTFDB3"] | flag["in_AnimalTFDB4"]
    has_motif = table["lambert_assessment"].isin(["Known motif", "Inferred motif"])
    accepted = flag["in_Lambert2018"] & (has_motif | in_animaltfdb | flag["in_pySCENIC_curated"])
    unassessed = ~flag["in_Lambert2018"] & table["lambert_assessment"].isna()
    is_cofactor = flag["in_AnimalTFDB3_cofactor"] | flag["in_histone_modifier"]
    is_regulator = table["class"].eq("DNA_binding_TF") & (flag["in_CollecTRI"] | flag["in_TRRUST"])
    binds_dna = accepted | (unassessed & has_domain(table))
    return np.select([binds_dna, is_cofactor | is_regulator], ["dna_binding", "cofactor"], "other")


def classify_mouse(table, human):
    """Class of each mouse gene: that of its human ortholog, else by AnimalTFDB's domain."""
    by_ortholog = table["human_gene_id"].map(human.set_index("gene_id")["class"])
    is_cofactor = table["in_AnimalTFDB3_cofactor"].eq(1)
    by_domain = np.select([has_domain(table), is_cofactor], ["dna_binding", "cofactor"], "other")
    return by_ortholog.where(by_ortholog.notna(), by_domain)


def regulators(source):
    """Regulator tables of human and mouse."""
    tables = {species: read(source / f"{species}_tfs.csv").query("recommended == 1") for species in ("human", "mouse")}
    tables["human"]["class"] = classify_human(tables["human"])
    tables["mouse"]["class"] = classify_mouse(tables["mouse"], tables["human"])
    columns = ["TF", "gene_id", "class", "evidence", "dbd_family"]
    for species, extra in (("human", []), ("mouse", ["human_symbol", "human_gene_id"])):
        table = tables[species].assign(evidence=evidence).rename(columns={"DBD_family": "dbd_family"})
        tables[species] = table[columns + extra].sort_values("TF")
    return tables


def prior(source):
    """Prior edges without DoRothEA: a noisy-OR over CollecTRI and TRRUST is the confidence."""
    edges = read(source / "OmniPath.csv.gz").rename(columns={"collectri_complex_expanded": "complex_expanded"})
    in_collectri, in_trrust = (edges["sources"].str.contains(name) for name in ("CollecTRI", "TRRUST"))
    collectri = (0.6 + 0.1 * np.log2(1 + edges["n_pmids"])).clip(upper=0.95)
    collectri = collectri.where(edges["complex_expanded"].eq(0), collectri.clip(upper=0.5))
    edges["confidence"] = (1 - (1 - collectri * in_collectri) * (1 - 0.7 * in_trrust)).round(4)
    kept = [[name for name in names.split(";") if "DoRothEA" not in name] for names in edges["sources"]]
    edges["sources"] = [";".join(names) for names in kept]
    from_dorothea = edges["sign_source"].str.contains("DoRothEA")
    edges.loc[from_dorothea, ["sign", "sign_source"]] = [0, "none"]
    edges = edges[edges["sources"].ne("") & edges["Gene1"].ne(edges["Gene2"])]
    columns = ["Gene1", "Gene2", "sign", "confidence", "sources", "n_pmids", "chip_only", "sign_source"]
    edges = edges[[*columns, "complex_expanded", "Gene1_id", "Gene2_id"]]
    return edges.drop_duplicates(["Gene1", "Gene2"]).sort_values(["Gene1", "Gene2"])


def homologs(source):
    table = read(source / "homologous.csv.gz")
    columns = ["mouse_EnsemblID", "mouse_Symbol", "human_EnsemblID", "human_Symbol"]
    return table[[*columns, "support_n"]].rename(columns={"support_n": "support"}).sort_values(columns[::-1])


def vocabulary(source):
    """Special tokens, then the core genes by Ensembl id."""
    genes = read(source / "gene_vocab.csv.gz").query("core").sort_values("gene_id")
    special = pd.DataFrame({"gene_symbol": None, "gene_id": SPECIAL_TOKENS})
    table = pd.concat([special, genes[["gene_symbol", "gene_id"]]], ignore_index=True)
    return table.rename_axis("token_index").reset_index()


def aliases(source, vocab):
    """Aliases that mean one gene of the vocabulary and are no current symbol, in upper case."""
    table = read(source / "gene_alias.csv.gz").dropna(subset="alias")
    current = {*read(source / "gene_vocab.csv.gz")["gene_symbol"].str.upper(), *table["gene_symbol"].str.upper()}
    table["alias"] = table["alias"].str.strip().str.upper()
    by_alias = table.groupby("alias")
    is_ambiguous = by_alias["ambiguous"].transform("any") | by_alias["gene_id"].transform("nunique").gt(1)
    # No matrix holds other characters; a bare number or an Ensembl id is no alias; pandas reads the words as gaps.
    is_name = table["alias"].str.fullmatch(r"(?![0-9.]+$)(?!ENS[GTP]\d+$)(?!(?:N/?A|NAN|NULL|NONE)$)[A-Z0-9._/-]+")
    is_usable = is_name & ~is_ambiguous & ~table["alias"].isin(current) & table["gene_id"].isin(vocab["gene_id"])
    trust = {"hgnc_previous": 0, "hgnc_alias": 1, "HGNChelper": 2, "NCBI_synonym": 3}
    table = table[is_usable].sort_values(["alias", "type"], key=lambda c: c.map(trust) if c.name == "type" else c)
    return table.drop_duplicates("alias")[["alias", "gene_symbol", "type"]]


def conditions(source):
    """Condition words: `<unk>`, the species, the examples of the sources, then the lists above."""
    examples = read(source / "cond_vocab_examples.csv")
    found = ["<unk>", "human", "mouse", *examples["value"].str.lower()]
    return list(dict.fromkeys(found + words(ASSAYS) + words(TISSUES) + words(DISEASES)))


def annotations(source, vocab):
    """Binary matrix of genes (rows, as in `vocab`) by GO terms and Reactome pathways."""
    go = read(source / "genesets" / "gene_go_terms.csv.gz")
    pairs = [pd.DataFrame({"row": go["gene_id"].map(vocab.set_index("gene_id")["token_index"]), "term": go["go_id"]})]
    row_of = vocab.dropna().set_index("gene_symbol")["token_index"]
    for line in (source / "genesets" / "reactome_2021.gmt").read_text().splitlines():
        _, term, *symbols = line.split("\t")
        pairs.append(pd.DataFrame({"row": row_of.reindex(symbols).to_numpy(), "term": term}))
    pairs = pd.concat(pairs).dropna().drop_duplicates()
    pairs = pairs[pairs.groupby("term")["row"].transform("size").between(*SET_SIZES)]
    columns, terms = pd.factorize(pairs["term"], sort=True)
    return csr_matrix((np.ones(len(pairs)), (pairs["row"].astype(int), columns)), (len(vocab), len(terms)))


def gene_vectors(source, vocab):
    """Truncated SVD of the TF-IDF of annotations; rows of root-mean-square 1, or 0 without annotation."""
    tfidf = TfidfTransformer().fit_transform(annotations(source, vocab))
    left, scale, _ = svds(tfidf, VECTOR_WIDTH, v0=np.ones(min(tfidf.shape)))
    order = np.argsort(-scale)
    left, scale = left[:, order], scale[order]
    left *= np.sign(left[np.abs(left).argmax(0), np.arange(VECTOR_WIDTH)])
    # Powers 0, 0.5 and 1 recover held-out regulator-target pairs equally well; 0.5 keeps close families apart.
    vectors = left * np.sqrt(scale)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_annotated = (tfidf.getnnz(axis=1) > 0)[:, None]
    return np.where(is_annotated, vectors / np.maximum(norm, 1e-30) * np.sqrt(VECTOR_WIDTH), 0).astype(np.float32)


def count_lines(tables, vocab, n_conditions, vectors):
    """Markdown rows of the counts in docs/resources.md."""

    def of_class(table):
        return ", ".join(f"{n:,} {name}" for name, n in sorted(table["class"].value_counts().items()))

    edges = tables["OmniPath.csv"]
    known = {"human_tfs.csv": of_class(tables["human_tfs.csv"]), "mouse_tfs.csv": of_class(tables["mouse_tfs.csv"])}
    signs = ", ".join(f"{n:,} of sign {sign}" for sign, n in edges["sign"].value_counts().items())
    known["OmniPath.csv"] = f"{edges['Gene1'].nunique():,} regulators, {edges['Gene2'].nunique():,} targets, {signs}"
    known["models/aliases.csv"] = f"of {tables['models/aliases.csv']['gene_symbol'].nunique():,} genes"
    rows = [(name, len(table), known.get(name, "")) for name, table in tables.items()]
    rows.append(("models/vocab.json", len(vocab), f"{len(SPECIAL_TOKENS)} special tokens, the rest genes"))
    rows.append(("models/cond_dict.json", n_conditions, "words"))
    rows.append(("models/vocab.safetensors", len(vectors), f"{int(vectors.any(1).sum()):,} rows with annotation"))
    return ["| file | rows | of which |", "|---|---|---|", *(f"| `{a}` | {n:,} | {b} |" for a, n, b in rows)]


def write_counts(doc, lines):
    begin, end = "<!-- counts: begin -->", "<!-- counts: end -->"
    head, rest = doc.read_text().split(begin)
    write(doc, "\n".join([head + begin, *lines, end + rest.split(end)[1]]).encode())


def compile_resources(source, out):
    """Write every table below `out`, and the counts into its docs/resources.md if there is one."""
    vocab, words_of_conditions, tfs = vocabulary(source), conditions(source), regulators(source)
    vectors = gene_vectors(source, vocab)
    tables = {
        "human_tfs.csv": tfs["human"],
        "mouse_tfs.csv": tfs["mouse"],
        "OmniPath.csv": prior(source),
        "homologous.csv": homologs(source),
        "models/aliases.csv": aliases(source, vocab),
    }
    for name, table in tables.items():
        write_csv(out / name, table)
    write_records(out / "models/vocab.json", vocab.to_dict("records"))
    tokens = [{"cond_value": word, "token_index": index} for index, word in enumerate(words_of_conditions)]
    write_records(out / "models/cond_dict.json", tokens)
    write(out / "models/vocab.safetensors", save({"embeddings": np.ascontiguousarray(vectors)}))
    if (out / "docs/resources.md").exists():
        write_counts(out / "docs/resources.md", count_lines(tables, vocab, len(tokens), vectors))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=ROOT / "../shared/resources", help="folder of the sources")
    parser.add_argument("--out", type=Path, default=ROOT, help="repository root to write to")
    options = parser.parse_args()
    compile_resources(options.source, options.out)


if __name__ == "__main__":
    main()
