"""Files and windows: any storage reads the same, bad files are named, and memory holds a few windows at a time."""

import shutil
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from making import random_sfm, random_vgae, sfm_config, write_release
from scipy import sparse
from training import killed_at, settings, weights_of, write_cells

from sccafm.model.layout import find_files
from sccafm.reference.bundle import read_reference_data
from sccafm.train import files as module
from sccafm.train import train_sfm
from sccafm.train.config import StreamConfig
from sccafm.train.corpus import Corpus
from sccafm.train.files import load, survey_file, survey_files
from sccafm.train.stream import Stream

FEW_FACTORS = sfm_config(num_factors=8)  # each has a programme, for which 60 cells are few
SMALL = StreamConfig(above=0, block=7, window=21, windows=2)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    sfm = random_sfm(num_layers=1, freeze_loaded_gene_embeddings=True, beta_momentum=0.05)
    return write_release(tmp_path_factory.mktemp("begun") / "release", sfm, random_vgae())


@pytest.fixture(scope="module")
def reference_data(begun):
    return read_reference_data(find_files(begun))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of 60 cells each, human and mouse."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    write_cells(folder / "human.h5ad")
    write_cells(folder / "mouse.h5ad", str.title, 1)
    return folder


@pytest.fixture
def config(data, tmp_path):
    return settings(data, tmp_path / "run", stream=SMALL, validation_share=0.2, sfm=FEW_FACTORS)


@pytest.fixture
def corpus(config, reference_data):
    corpus = Corpus(config, reference_data, progress=False)
    yield corpus
    corpus.close()


def same(one, other) -> bool:
    tensors = [(batch.dataset, *(t for t in vars(batch.tokens).values() if t is not None)) for batch in (one, other)]
    return tensors[0][0] == tensors[1][0] and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(tensors[0][1:], tensors[1][1:], strict=True)
    )


# Files


def stored(kind: str, adata: ad.AnnData, folder) -> object:
    """The same counts in another storage."""
    adata = adata.copy()
    if kind == "dense":
        adata.X = adata.X.toarray()
    if kind == "layer":
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X.toarray() - 0.5
    if kind == "raw":
        adata.raw = adata.copy()
        adata.X = adata.X.log1p()
    path = folder / ("cells.zarr" if kind == "zarr" else "cells.h5ad")
    adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("kind", ["dense", "layer", "raw", "zarr"])
@pytest.mark.filterwarnings("ignore:.*zarr.*")
def test_any_storage_reads_the_same(data, config, reference_data, tmp_path, kind):
    expected = survey_file(data / "human.h5ad", config, reference_data)
    path = stored(kind, ad.read_h5ad(data / "human.h5ad"), tmp_path)
    found = survey_file(path, config, reference_data)
    for name in ("species", "size", "columns", "tokens", "is_tf", "appeal", "level", "conditions", "cells"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert (load(found, config).counts != load(expected, config).counts).nnz == 0


def test_a_survey_tells_the_levels_of_the_whole_file(data, config, reference_data):
    file = survey_file(data / "human.h5ad", config, reference_data)
    counts = ad.read_h5ad(data / "human.h5ad").X.toarray().astype(float)
    expected = np.log1p((counts / counts.sum(1, keepdims=True) * 1e4).mean(0))
    np.testing.assert_allclose(file.level, expected[file.columns], rtol=1e-6)
    assert file.is_held_out.sum() == 12


def test_cells_without_counts_are_never_read(config, reference_data, tmp_path):
    def empty_tenth(counts):
        keep = np.ones(60)
        keep[::10] = 0
        return sparse.csr_matrix(sparse.diags(keep) @ counts, dtype=np.float32)

    write_cells(tmp_path / "more/cells.h5ad", transform=empty_tenth)
    file = survey_file(tmp_path / "more/cells.h5ad", config, reference_data)
    assert not (set(file.cells) & set(range(0, 60, 10)))
    assert load(file, config).counts.sum(1).min() > 0


@pytest.fixture
def bad(tmp_path, data):
    """A good file and five that cannot be trained on."""
    folder = tmp_path / "bad"
    folder.mkdir()
    shutil.copy(data / "human.h5ad", folder / "good.h5ad")
    whole, adata = (data / "human.h5ad").read_bytes(), ad.read_h5ad(data / "human.h5ad")
    (folder / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (folder / "hollow.zarr").mkdir()
    adata[:0].copy().write_h5ad(folder / "no_cells.h5ad")
    adata[:4].copy().write_h5ad(folder / "few.h5ad")
    adata.X = adata.X.tocsc()
    adata.write_h5ad(folder / "columns.h5ad")
    return folder


TOLD = {
    "cut.h5ad": "",
    "hollow.zarr": "",
    "no_cells.h5ad": "",
    "few.h5ad": "4 of its 4 cells hold counts; at least 10 are needed",
    "columns.h5ad": r"X is stored by columns \(CSC\)",
}


@pytest.mark.parametrize("name", TOLD)
def test_a_bad_file_is_refused_by_name(bad, tmp_path, reference_data, name):
    config = settings(bad, tmp_path / "run")
    with pytest.raises(ValueError, match=rf'bad/{name}: {TOLD[name]}.*(.|\n)*5 of 6 files .*on_bad_file="skip"'):
        Corpus(config, reference_data, progress=False)


def test_bad_files_are_skipped_with_a_warning(bad, tmp_path, reference_data):
    config = settings(bad, tmp_path / "run", on_bad_file="skip", sfm=FEW_FACTORS)
    with pytest.warns(UserWarning, match="5 of 6 files are skipped") as said:
        corpus = Corpus(config, reference_data, progress=False)
    assert all(name in str(said[0].message) for name in TOLD)
    assert [file.name for file in corpus.files] == ["good.h5ad"]
    assert {path.name for path in corpus.bad} == set(TOLD)


def test_bad_files_alone_are_refused_even_where_they_may_be_skipped(bad, tmp_path, reference_data):
    (bad / "good.h5ad").unlink()
    config = settings(bad, tmp_path / "run", on_bad_file="skip", sfm=FEW_FACTORS)
    with pytest.raises(ValueError, match="5 of 5 files cannot be trained on. Mend or remove them$"):
        Corpus(config, reference_data, progress=False)


def test_a_survey_is_kept_until_its_file_changes(config, reference_data, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    write_cells(folder / "a.h5ad")
    write_cells(folder / "b.h5ad", seed=1)
    paths, surveyed = module.corpus_files(folder), []
    survey = module.survey_file

    def counting(path, *others):
        surveyed.append(path.name)
        return survey(path, *others)

    monkeypatch.setattr(module, "survey_file", counting)
    first, _ = survey_files(paths, config, reference_data, progress=False)
    again, _ = survey_files(paths, config, reference_data, progress=False)
    assert surveyed == ["a.h5ad", "b.h5ad"]
    for one, other in zip(first, again, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name), name)
    write_cells(folder / "b.h5ad", seed=2)
    survey_files(paths, config, reference_data, progress=False)
    assert surveyed[2:] == ["b.h5ad"]


def test_a_file_that_vanishes_after_its_survey_is_named(config, reference_data, tmp_path):
    write_cells(tmp_path / "gone/cells.h5ad")
    file = survey_file(tmp_path / "gone/cells.h5ad", config, reference_data)
    file.path.unlink()
    with pytest.raises(ValueError, match="gone/cells.h5ad could be surveyed but not be read again"):
        load(file, config)


# Windows


def test_a_corpus_is_streamed_above_the_stated_size(config, reference_data, corpus):
    assert corpus.is_streamed
    assert "streamed from disk" in repr(corpus)
    size = sum(file.size for file in corpus.files) * 8 / 1e9
    for above, expected in ((size * 1.01, False), (size * 0.99, True)):
        changed = SimpleNamespace(**vars(config) | {"stream": StreamConfig(above=above)})
        other = Corpus(changed, reference_data, progress=False)
        other.close()
        assert other.is_streamed == expected


def test_windows_show_every_cell_once_before_any_comes_again(corpus):
    file, stream = corpus.files[0], corpus.source
    orders = []
    for epoch in range(2):
        windows = [stream.window(file, 3 * epoch + visit) for visit in range(3)]
        cells = [np.concatenate(window) for window in windows]
        assert sorted(np.concatenate(cells)) == list(range(60))
        assert all(len(block) <= 8 and (np.diff(block) == 1).all() for window in windows for block in window)
        orders.append([set(window) for window in cells])
    assert orders[0] != orders[1]


def test_a_window_holds_the_rows_of_its_file(corpus, config):
    file, stream = corpus.files[1], corpus.source
    whole, runs = load(file, config), stream.window(file, 1)
    window, cells = load(file, config, runs), np.concatenate(runs)
    assert (window.counts != whole.counts[cells]).nnz == 0
    np.testing.assert_array_equal(window.conditions, whole.conditions[cells])
    np.testing.assert_array_equal(cells[window.validation], np.intersect1d(cells, whole.validation))
    np.testing.assert_array_equal(cells[window.train], np.intersect1d(cells, whole.train))
    assert window.neighbors.max() < len(cells)
    assert (window.neighbors[:, 0] == np.arange(len(cells))).all()


def test_a_window_of_all_cells_is_the_data_set_in_memory(corpus, config):
    file = corpus.files[0]
    whole, window = load(file, config), load(file, config, [np.arange(25), np.arange(25, 60)])
    np.testing.assert_array_equal(whole.neighbors, window.neighbors)
    assert (whole.counts != window.counts).nnz == 0


def test_lanes_read_other_cells_until_all_were_read(data, config, reference_data, tmp_path):
    changed = SimpleNamespace(**vars(config) | {"accumulate_grad_batches": 3})
    files, _ = survey_files(module.corpus_files(data), changed, reference_data, progress=False)
    stream = Stream(files[:1], changed, np.array([1.0]))
    shown = []
    stream_load, module_load = stream._load, stream.window
    stream.window = lambda file, visit: shown.append(visit) or module_load(file, visit)
    for lane in range(3):
        stream_load(lane, 0)
    stream.close()
    assert sorted(shown) == [0, 1, 2]


def test_streamed_batches_depend_on_seed_and_number_alone(corpus, config, reference_data):
    stride = corpus.source.stride
    numbers = [0, 1, stride, 3 * stride + 1, 3 * stride]
    batches = {number: corpus.train_batch(number) for number in numbers}
    other = Corpus(config, reference_data, progress=False)  # a run that is taken up again starts anywhere
    try:
        assert all(same(other.train_batch(number), batches[number]) for number in reversed(numbers))
        assert same(other.validation_batch(1), corpus.validation_batch(1))
    finally:
        other.close()
    assert not same(batches[0], batches[1])


def test_a_lane_holds_a_few_windows_at_a_time(corpus):
    most = 0
    for number in range(30 * corpus.source.stride):
        corpus.train_batch(number)
        most = max(most, len(corpus.source.lanes[0].held))
    assert most <= SMALL.windows + 2


def test_files_come_as_often_as_their_share_says(corpus, config):
    stream = Stream(corpus.files, config, np.array([0.8, 0.2]))
    planned = [stream._plan(stream.lanes[0], window)[0] for window in range(2000)]
    stream.close()
    assert np.mean(planned) == pytest.approx(0.2, abs=0.03)


def test_held_out_batches_hold_held_out_cells_alone(corpus):
    held = {}
    for file in corpus.files:
        counts = ad.read_h5ad(file.path).X.toarray().astype(float)
        held[file.name] = file, np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)[file.cells[file.is_held_out]]
    for number in range(6):
        batch = corpus.validation_batch(number)
        file, expected = held[batch.dataset]
        column = dict(zip(file.tokens, file.columns, strict=True))
        columns = [column[token] for token in batch.tokens.gene_ids[0].tolist()]
        for row in batch.tokens.expression.numpy():
            assert np.abs(expected[:, columns] - row).max(1).min() < 1e-4


def test_a_streamed_run_taken_up_again_has_the_same_bits(data, begun, tmp_path):
    one, two = (
        settings(data, tmp_path / name, init=begun, stream=StreamConfig(above=0, block=7, window=6, windows=2))
        for name in ("one", "two")
    )
    with killed_at(5):
        train_sfm(two, progress=False)
    assert weights_of(train_sfm(two, progress=False)) == weights_of(train_sfm(one, progress=False))
    assert (one.run / "log.csv").read_bytes() == (two.run / "log.csv").read_bytes()


def test_new_weights_start_from_a_window_of_each_file(corpus):
    samples = list(corpus.samples())
    assert [sample.name for sample in samples] == ["human.h5ad", "mouse.h5ad"]
    assert all(18 <= sample.counts.shape[0] <= 24 for sample in samples)
