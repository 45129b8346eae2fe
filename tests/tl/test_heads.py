"""Heads: three worked examples, honest folds, calibrated probabilities, folders, validation; frozen and fine-tuned."""

import dataclasses
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from making import GENES, random_causal_efm, random_efm
from scipy import sparse
from torch.nn import functional as F

import sccafm
from sccafm import tl
from sccafm.tl.scores import calibration_error, fit_temperature, make_folds


def cells(n=240, donors=6, width=10, seed=0):
    """Vectors that hold a cell type (3), a stimulus, and a mark of the donor."""
    rng = np.random.default_rng(seed)
    kind, stimulated, donor = rng.integers(3, size=n), rng.integers(2, size=n), np.arange(n) % donors
    directions = rng.normal(size=(3, width))
    mark = rng.normal(size=(donors, width))
    x = directions[kind] * 2 + stimulated[:, None] * rng.normal(size=width) * 1.5 + mark[donor]
    x = x + 0.7 * rng.normal(size=(n, width))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(["T cell", "B cell", "monocyte"])[kind]),
            "stimulus": np.array(["control", "stimulated"])[stimulated],
            "donor": [f"d{d}" for d in donor],
        },
        index=[f"cell{i}" for i in range(n)],
    )
    adata = ad.AnnData(np.zeros((n, 1), np.float32), obs, obsm={"X_sccafm_zero_shot": x.astype(np.float32)})
    adata.uns["X_sccafm_zero_shot"] = {"params": {"efm_hash": "abc"}}
    return adata


def test_cell_type_annotation():
    """Labels learned on some donors name the cells of a new one."""
    adata = cells()
    known, new = adata[adata.obs["donor"] != "d5"].copy(), adata[adata.obs["donor"] == "d5"].copy()
    head = tl.fit_head(known, "cell_type", groups="donor")
    table = tl.predict(new, head)
    assert list(table) == ["B cell", "T cell", "monocyte"]
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
    assert (new.obs["cell_type_predicted"].astype(str) == new.obs["cell_type"].astype(str)).mean() > 0.8
    np.testing.assert_allclose(new.obs["cell_type_predicted_probability"], table.max(axis=1))
    assert head.scores["fold"].tolist() == ["0", "1", "2", "3", "4", "all"]
    assert sorted(head.scores["held_out"][:5]) == ["d0", "d1", "d2", "d3", "d4"]


def test_stimulus_response():
    """Which cells answered, judged on donors that were left out; a small network does it too."""
    for network in ("linear", "mlp"):
        head = tl.fit_head(cells(), "stimulus", groups="donor", network=network)
        assert head.scores.set_index("fold").loc["all", "accuracy"] > 0.75
        assert "over 5 folds of donor, accuracy" in repr(head)


def test_drug_sensitivity_from_expression_of_cell_lines():
    """A number that belongs to a line, not to a cell: lines are held out whole."""
    rng = np.random.default_rng(1)
    lines, width = 24, 8
    state = rng.normal(size=(lines, width))
    ic50 = state @ rng.normal(size=width) + 5
    line = np.repeat(np.arange(lines), 8)
    obs = pd.DataFrame({"line": [f"l{i}" for i in line], "ic50": ic50[line]}, index=[f"c{i}" for i in range(len(line))])
    x = state[line] + 0.3 * rng.normal(size=(len(line), width))
    adata = ad.AnnData(np.zeros((len(line), 1), np.float32), obs, obsm={"X_sccafm_zero_shot": x})
    head = tl.fit_head(adata, "ic50", kind="regress", groups="line")
    whole = head.scores.set_index("fold").loc["all"]
    assert whole["spearman"] > 0.8
    table = tl.predict(adata, head, key_added="sensitivity")
    np.testing.assert_array_equal(adata.obs["sensitivity"], table["value"])
    noise = adata.copy()
    noise.obsm["X_sccafm_zero_shot"] = rng.normal(size=x.shape)[
        line
    ]  # a line's own mark, which says nothing of another line
    honest = tl.fit_head(noise, "ic50", kind="regress", groups="line").scores.iloc[-1]["spearman"]
    flattered = tl.fit_head(noise, "ic50", kind="regress").scores.iloc[-1]["spearman"]
    assert honest < 0.5 < flattered


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_on_both_sides(seed):
    obs = pd.DataFrame({"donor": np.random.default_rng(seed).choice(list("abcdefg"), 200)})
    folds = make_folds(obs, "donor", 4, seed)
    assert pd.DataFrame({"fold": folds, "donor": obs["donor"]}).groupby("donor")["fold"].nunique().max() == 1
    sizes = np.bincount(folds)
    assert len(sizes) == 4
    assert sizes.min() > 0.5 * sizes.max()


def test_temperature_brings_confidence_to_accuracy():
    rng = np.random.default_rng(0)
    true = rng.integers(3, size=3000)
    honest = torch.from_numpy(rng.normal(size=(3000, 3)) + 1.5 * np.eye(3)[true])
    t = fit_temperature(4 * honest, torch.from_numpy(true))
    by_loop = min(
        torch.logspace(-3, 3, 200, base=2).tolist(),
        key=lambda s: -np.log(torch.softmax(4 * honest / s, 1).numpy()[np.arange(3000), true]).mean(),
    )
    assert t == pytest.approx(by_loop)
    before, after = (calibration_error(torch.softmax(4 * honest / s, 1).numpy(), true) for s in (1, t))
    assert after < 0.03 < 0.12 < before
    assert float(F.cross_entropy(4 * honest / t, torch.from_numpy(true))) < float(
        F.cross_entropy(4 * honest, torch.from_numpy(true))
    )


def test_calibration_error_equals_the_loop():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 50)
    y = rng.integers(3, size=50)
    total = 0.0
    for b in range(10):
        rows = [i for i in range(50) if min(int(p[i].max() * 10), 9) == b]
        if rows:
            total += (
                abs(np.mean([p[i].max() for i in rows]) - np.mean([p[i].argmax() == y[i] for i in rows]))
                * len(rows)
                / 50
            )
    assert calibration_error(p, y) == pytest.approx(total)


def test_a_head_comes_back_from_a_folder(tmp_path):
    adata = cells()
    for kind, target in (("classify", "cell_type"), ("regress", "age")):
        adata.obs["age"] = adata.obsm["X_sccafm_zero_shot"][:, 0] * 3 + 40
        head = tl.fit_head(adata, target, kind=kind, groups="donor", network="mlp")
        folder = head.write(tmp_path / kind)
        pd.testing.assert_frame_equal(tl.predict(adata, folder), tl.predict(adata, head))
        found = tl.read_head(folder)
        pd.testing.assert_frame_equal(found.scores, head.scores, check_exact=False)
        pd.testing.assert_frame_equal(found.held_out, head.held_out, check_dtype=False, check_exact=False, atol=1e-5)
        assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
        with pytest.raises(ValueError, match="is not empty; give a new folder"):
            head.write(folder)


def test_fits_repeat_and_leave_random_numbers_alone():
    adata = cells()
    torch.manual_seed(3)
    one = tl.fit_head(adata, "stimulus", groups="donor", network="mlp")
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    two = tl.fit_head(adata, "stimulus", groups="donor", network="mlp")
    pd.testing.assert_frame_equal(one.held_out, two.held_out, check_exact=True)


def test_cells_without_a_label_are_left_out():
    adata = cells()
    adata.obs.loc[adata.obs_names[:40], "cell_type"] = np.nan
    head = tl.fit_head(adata, "cell_type", groups="donor")
    assert len(head.held_out) == 200
    assert len(tl.predict(adata, head, copy=True)) == 240
    assert "cell_type_predicted" not in adata.obs


DOORS = [
    ({"target": "kind"}, KeyError, "target='kind' is no column of obs; there are"),
    ({"groups": "plate"}, KeyError, "groups='plate' is no column of obs"),
    ({"use_rep": "X_pca"}, KeyError, r"obsm has no 'X_pca'; there are \['X_sccafm_zero_shot'\]: sccafm.embed"),
    ({"kind": "rank"}, ValueError, 'kind must be "classify" or "regress", got \'rank\''),
    ({"network": "deep"}, ValueError, 'network must be "linear" or "mlp", got \'deep\''),
    ({"n_folds": 1}, ValueError, "n_folds must be a whole number of at least 2, got 1"),
    ({"kind": "regress"}, ValueError, "'cell_type' holds no numbers .*; for labels: kind=\"classify\""),
    ({"target": "one"}, ValueError, "'one' names a single label, 'x'; two are needed"),
    ({"groups": "one"}, ValueError, "groups='one' names a single group, 'x'; leave it out"),
    ({"target": "flat", "kind": "regress"}, ValueError, "'flat' is 2.0 in every cell; there is nothing to learn"),
    ({"target": "rare"}, ValueError, "2 cells have a 'rare' and a group; at least 4 are needed"),
]


@pytest.mark.parametrize(("settings", "error", "told"), DOORS)
def test_doors_of_fitting(settings, error, told):
    adata = cells(60)
    adata.obs["one"], adata.obs["flat"] = "x", 2.0
    adata.obs["rare"] = ["a", "b"] + [np.nan] * 58
    with pytest.raises(error, match=told):
        tl.fit_head(adata, **{"target": "cell_type"} | settings)


def test_doors_of_predicting(tmp_path):
    adata = cells(60)
    head = tl.fit_head(adata, "cell_type")
    wide = adata.copy()
    wide.obsm["X_sccafm_zero_shot"] = np.zeros((60, 11))
    with pytest.raises(ValueError, match="is 11 wide, the head was fitted on 10"):
        tl.predict(wide, head)
    other = adata.copy()
    other.uns["X_sccafm_zero_shot"] = {"params": {"efm_hash": "other"}}
    with pytest.raises(ValueError, match="lies in another space than the vectors that the head was fitted on"):
        tl.predict(other, head)
    holes = adata.copy()
    holes.obsm["X_sccafm_zero_shot"][3, 2] = np.nan
    with pytest.raises(ValueError, match="holds values that are not finite; leave those cells out"):
        tl.predict(holes, head)
    with pytest.raises(FileNotFoundError, match="holds no head: it has no head.json"):
        tl.predict(adata, tmp_path)


@pytest.fixture(scope="session")
def ours(tiny_model):
    return dataclasses.replace(tiny_model, efm=random_causal_efm(tiny_model.vocabulary.size))


LONG = tl.Finetune(epochs=16, learning_rate=1e-2, thin_from=1.0)
QUICK = tl.Finetune(epochs=1, learning_rate=1e-2)


def stimulated(n=96, high=4.0, low=0.4) -> ad.AnnData:
    """Counts in which a stimulus exchanges the levels of two pairs of genes; six donors."""
    rng = np.random.default_rng(1)
    rate = rng.gamma(0.6, 2.0, 60) * rng.gamma(4.0, 0.25, (n, 1)) + 0.3
    label = rng.integers(2, size=n)
    rate[:, 20:24] = np.where(label[:, None] == 1, [high, high, low, low], [low, low, high, high])
    obs = pd.DataFrame(
        {
            "stimulus": np.where(label == 1, "stimulated", "control"),
            "dose": label * 2.0 + 1,
            "donor": [f"d{i % 6}" for i in range(n)],
            "organism": "human",
        },
        index=[f"cell{i}" for i in range(n)],
    )
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obs, pd.DataFrame(index=GENES.split()))


def finetuned(adata, model, target="stimulus", finetune=QUICK, **settings):
    settings = {"groups": "donor", "n_folds": 2} | settings
    return tl.fit_head(adata, target, finetune=finetune, model=model, progress=False, **settings)


def test_finetuning_reaches_what_frozen_vectors_hide(ours):
    adata = stimulated()
    sccafm.embed(adata, ours, progress=False)
    frozen, tuned = (
        head.scores.iloc[-1]["accuracy"]
        for head in (
            tl.fit_head(adata, "stimulus", groups="donor", n_folds=3),
            finetuned(adata, ours, finetune=LONG, n_folds=3),
        )
    )
    assert frozen < 0.75
    assert tuned > frozen + 0.1


def test_finetuning_changes_a_copy_and_repeats(ours):
    before = {name: tensor.clone() for name, tensor in ours.efm.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    adata = stimulated(40)
    one = finetuned(adata, ours)
    assert torch.equal(drawn, torch.rand(1))
    two = finetuned(adata, ours)
    pd.testing.assert_frame_equal(one.held_out, two.held_out, check_exact=True)
    assert one.embedding_hash == two.embedding_hash
    for name, tensor in ours.efm.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(not p.requires_grad for p in one.tuned.efm.parameters())
    assert not torch.equal(one.tuned.efm.gene_shift.weight, before["gene_shift.weight"])
    assert one.embedding_hash != finetuned(adata, ours, random_state=1).embedding_hash
    assert not adata.obsm


def test_what_is_held_out_has_no_say(ours):
    """Other labels in a donor change neither what is said of it nor the network that says it, while it is held out."""
    adata = stimulated(48)
    other = adata.copy()
    flipped = (other.obs["donor"] == "d0").to_numpy()
    other.obs.loc[flipped, "stimulus"] = other.obs.loc[flipped, "stimulus"].map(
        {"control": "stimulated", "stimulated": "control"}
    )
    raw = [np.log(finetuned(a, ours, n_folds=6).held_out[flipped].to_numpy()) for a in (adata, other)]
    margins = [x[:, 0] - x[:, 1] for x in raw]  # logits over a temperature, which all held-out cells decide together
    ratio = margins[0] / margins[1]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("target", "kind", "network"), [("stimulus", "classify", "mlp"), ("dose", "regress", "linear")]
)
def test_a_finetuned_head_comes_back_from_a_folder(ours, tmp_path, target, kind, network):
    adata = stimulated(40)
    head = finetuned(adata, ours, target, kind=kind, network=network)
    folder = head.write(tmp_path / "head")
    expected = tl.predict(adata, head, model=ours, progress=False)
    pd.testing.assert_frame_equal(
        tl.predict(adata, folder, model=ours, progress=False, copy=True), expected, check_exact=True
    )
    found = tl.read_head(folder)
    assert (found.settings, found.embedding_hash) == (head.settings, head.embedding_hash)
    assert found.tuned.finetune == QUICK
    assert found.tuned.symbols == tuple(GENES.split())
    assert "on 60 genes, embedding module fine-tuned for 1 epochs: over 2 folds of donor" in repr(found)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["head"]
    assert f"{target}_predicted" in adata.obs


def test_a_head_that_was_written_with_older_names_is_read(ours, tmp_path):
    folder = finetuned(stimulated(40), ours).write(tmp_path / "head")
    content = json.loads((folder / "head.json").read_text())
    settings = content["tuned"].pop("finetune")
    content["tuned"]["unfreeze"] = settings | {"cells": settings.pop("batch_size")}
    (folder / "head.json").write_text(json.dumps(content))
    assert tl.read_head(folder).tuned.finetune == QUICK


@pytest.mark.parametrize("network", ["linear", "mlp"])
@pytest.mark.parametrize("width", [7, 33])
def test_an_answer_does_not_depend_on_the_number_of_rows(network, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, width)).astype(np.float32)
    adata = ad.AnnData(np.zeros((50, 1)), obs=pd.DataFrame({"label": rng.choice(["a", "b"], 50)}, map(str, range(50))))
    adata.obsm["X_sccafm_zero_shot"] = x
    head = tl.fit_head(adata, "label", network=network, n_folds=2)
    expected = head.apply(x)
    for rows in (1, 2, 3, 5, 16, 31):
        np.testing.assert_array_equal(head.apply(x[:rows]), expected[:rows])
        np.testing.assert_array_equal(head.apply(x[-rows:]), expected[-rows:])


def test_a_cell_is_predicted_alike_in_any_company(ours):
    """Other cells, another order of genes, other names for them: the answer has the same bits."""
    adata = stimulated(40)
    head = finetuned(adata, ours)
    expected = tl.predict(adata, head, model=ours, progress=False, copy=True)
    few = adata[[7, 3, 31]].copy()
    few.var_names = [ours.vocabulary.gene_id(token) for token in head.tuned.gene_ids]
    few = few[:, ::-1].copy()
    found = tl.predict(few, head, model=ours, progress=False, batch_size=2)
    pd.testing.assert_frame_equal(found, expected.iloc[[7, 3, 31]], check_exact=True)


def test_networks_that_are_there_already_give_the_same_head(ours, tmp_path):
    adata = stimulated(40)
    adata.obs.loc[adata.obs_names[:5], "stimulus"] = np.nan
    store = tmp_path / "grn"
    grn = sccafm.infer_grn(adata.copy(), ours, keep_factors=True, null_cells=0, progress=False, store=store)
    expected = finetuned(adata, ours)
    assert len(expected.held_out) == 35
    assert finetuned(adata, ours, grn=grn).embedding_hash == expected.embedding_hash


def test_the_structure_module_is_asked_once_a_cell(ours, monkeypatch):
    asked, forward = [], type(ours.sfm).forward

    def watched(module, tokens):
        asked.append(len(tokens))
        return forward(module, tokens)

    monkeypatch.setattr(type(ours.sfm), "forward", watched)
    finetuned(stimulated(40), ours)
    assert sum(asked) == 40


def test_genes_that_are_absent_are_told(ours):
    adata = stimulated(40)
    head = finetuned(adata, ours)
    with pytest.warns(UserWarning, match="1 of the 60 genes that the head was fitted on are not in the data, .*: IL32"):
        tl.predict(adata[:, :-1].copy(), head, model=ours, progress=False)
    with pytest.raises(
        ValueError, match="fitted on 60 genes, .* here are 20 and 18 of these, without .* Pass the whole"
    ):
        tl.predict(adata[:, :20].copy(), head, model=ours, progress=False)


FINETUNE_ERRORS = [
    ({"finetune": "soon"}, ValueError, 'finetune must be a text such as "5 epochs", or an sccafm.tl.Finetune; got'),
    ({"finetune": "3 minutes"}, ValueError, 'finetune must be a text such as "5 epochs"'),
    ({"finetune": "0 epochs"}, ValueError, "Finetune needs epochs above 0, got 0.0"),
    ({"finetune": tl.Finetune}, ValueError, 'finetune must be a text such as "5 epochs"'),
    ({"batch_size": 0}, ValueError, 'batch_size must be "auto" or a positive whole number, got 0'),
    ({"layer": "raw"}, KeyError, "no layer 'raw'"),
    ({"grn": 3}, TypeError, "grn must be what sccafm.infer_grn or sccafm.read_grn returned, got int"),
    ({"groups": "plate"}, KeyError, "groups='plate' is no column of obs"),
]


@pytest.mark.parametrize(("settings", "error", "told"), FINETUNE_ERRORS)
def test_validation_of_finetuning(ours, settings, error, told):
    with pytest.raises(error, match=told):
        finetuned(stimulated(20), ours, **settings)


def test_doors_of_models(ours, tiny_model):
    adata = stimulated(20)
    with pytest.raises(
        ValueError, match="the model from tiny has no embedding module to fine-tune; use the bundled one"
    ):
        finetuned(adata, tiny_model)
    published = random_efm(tiny_model.vocabulary.size, tiny_model.conditions.size)
    with pytest.raises(ValueError, match="the published embedding module cannot be fine-tuned; load a model"):
        finetuned(adata, dataclasses.replace(tiny_model, efm=published))
    head = finetuned(adata, ours)
    other = dataclasses.replace(ours, weights_hash="1" * 64, source="elsewhere")
    with pytest.raises(ValueError, match="structure module 0000000000000000 of the model from tiny, .* model='tiny'"):
        tl.predict(adata, head, model=other, progress=False)
    with pytest.raises(FloatingPointError, match="finetune= met a loss of nan; lower its learning_rate"):
        finetuned(adata, ours, finetune=tl.Finetune(3, learning_rate=1e30))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"epochs": "5"}, "Finetune needs epochs above 0, got '5'"),
        ({"epochs": 1, "batch_size": 0}, "whole number as batch_size, at least 1, got 0"),
        ({"epochs": 1, "learning_rate": 0.0}, "Finetune needs learning_rate above 0, got 0.0"),
        ({"epochs": 1, "thin_from": 0}, "thin_from above 0 and at most 1, got 0"),
    ],
)
def test_doors_of_settings(setting, told):
    with pytest.raises(ValueError, match=told):
        tl.Finetune(**setting)


def test_settings_without_effect_warn(ours):
    adata = cells(60)
    for setting in (
        {"genes": ["SPI1"]},
        {"n_top_genes": 5},
        {"preprocess": "none"},
        {"batch_size": 3},
        {"device": "cpu"},
    ):
        with pytest.warns(UserWarning, match=f"{next(iter(setting))}= has no effect without finetune="):
            head = tl.fit_head(adata, "cell_type", **setting)
    for setting in ({"layer": "counts"}, {"batch_size": 3}, {"device": "cpu"}, {"species": "human"}):
        with pytest.warns(UserWarning, match=f"{next(iter(setting))}= has no effect on this head, which reads vectors"):
            tl.predict(adata, head, **setting)
    with pytest.warns(UserWarning, match="use_rep= has no effect with finetune=, which reads expression"):
        finetuned(stimulated(20), ours, use_rep="X_pca")


def test_axes_of_little_weight_do_not_drown_a_head_on_few_cells():
    """As many axes as cells, of which one tells the label: weighed alike, the others would be fitted as noise."""
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = 0.1 * rng.standard_normal((160, 128))
    x[:, 0] = y + 0.25 * rng.standard_normal(160)
    obs = pd.DataFrame({"y": y.astype(str), "dose": y * 2.0 + 1}, [f"cell{i}" for i in range(160)])
    adata = ad.AnnData(np.zeros((160, 1), np.float32), obs)
    adata.obsm["x"] = x.astype(np.float32)
    assert tl.fit_head(adata, "y", use_rep="x").scores["accuracy"].iloc[-1] > 0.93
    assert tl.fit_head(adata, "dose", kind="regress", use_rep="x").scores["r2"].iloc[-1] > 0.6


def test_labels_come_back_as_they_were():
    adata = cells()
    adata.obs["number"] = (adata.obs["stimulus"] == "stimulated").astype(int)
    adata.obs["answer"] = adata.obs["number"].astype(bool)
    for name, kind in (("number", "int"), ("answer", "bool"), ("stimulus", "text")):
        head = tl.fit_head(adata, name)
        table = tl.predict(adata, head)
        assert head.settings.labels == kind
        found = adata.obs[f"{name}_predicted"].astype(adata.obs[name].dtype)
        assert (found == adata.obs[name]).mean() > 0.8
        assert set(table) == set(adata.obs[name])


@pytest.mark.parametrize(
    ("column", "settings", "error", "told"),
    [
        (np.linspace(0, 1, 60), {}, ValueError, 'holds numbers, such as .*kind="regress"'),
        ([f"c{i}" for i in range(60)], {}, ValueError, "names another label for each of 60 cells"),
        (np.where(np.arange(60) == 3, np.inf, np.arange(60.0)), {"kind": "regress"}, ValueError, "1 values that are not finite"),
        ([f"label {i % 6}" for i in range(60)], {"groups": "donor"}, ValueError, "is held by one group of 'donor' alone"),
    ],
)  # fmt: skip
def test_targets_that_nothing_can_be_learned_from(column, settings, error, told):
    adata = cells(60)
    adata.obs["odd"] = column
    with pytest.raises(error, match=told):
        tl.fit_head(adata, "odd", **settings)


def test_a_path_is_no_anndata():
    for call in (
        lambda: tl.fit_head("cells.h5ad", "stimulus"),
        lambda: tl.predict("cells.h5ad", tl.fit_head(cells(), "stimulus")),
    ):
        with pytest.raises(TypeError, match="expected an AnnData with vectors in obsm, got str"):
            call()
