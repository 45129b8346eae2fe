"""Loading and saving: any configuration comes back to the bit, and every door says what was expected and what came."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from making import random_efm, random_sfm, random_tokens, random_vgae, write_json, write_release, write_tables
from safetensors.torch import load_file, save_file

import sccafm
from sccafm.model.layout import CANDIDATES
from sccafm.reference.tables import bundled

PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
CONFIG, WEIGHTS = "models/sfm_config.json", "models/sfm_model.safetensors"
WRAPPED = "foundation_modules.sfm."


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "release", random_sfm(), random_vgae(), random_efm())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def snapshot_download(*_, **__):
        raise ConnectionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)


def same_module(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


def change(path: Path, function):
    """Rewrite a JSON or safetensors file of a release."""
    if path.suffix == ".json":
        write_json(path, function(json.loads(path.read_text())))
    else:
        save_file(function(load_file(path)), path)


def drop(key):
    return lambda content: {k: v for k, v in content.items() if k != key}


def setting(section, **changes):
    return lambda config: config | {section: config[section] | changes}


CONFIGURATIONS = [
    {},
    {"qkv_bias": False},
    {"out_bias": False, "backbone_mlp_bias": False},
    {"topk": None},
    {"topk": 0},
    {"topk": 12},
    {"topk": 99, "router_temperature": 0.3},
    {"topk": 1, "router_temperature": 2.0, "beta_momentum": 0.5},
    {"expr_tau": 0.2, "batch_tau": 3.0, "norm_eps": 1e-3},
    {"use_rotary": True},
    {"use_rotary": True, "rotary_interleaved": True, "rotary_base": 500.0},
    {"embed_dim": 15, "num_heads": 3, "num_layers": 1, "backbone_mlp_hidden_dim": 9},
    {"num_layers": 0, "num_factors": 5, "router_hidden_dim": 3},
]


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
@torch.no_grad()
def test_any_configuration_loads_to_identical_numbers_and_saves_to_them_again(changes, tmp_path):
    sfm, vgae = random_sfm(**changes), random_vgae(fp_steps=2)
    model = sccafm.load(write_release(tmp_path / "a", sfm, vgae), device="cpu")
    again = sccafm.load(model.save_pretrained(tmp_path / "b"), device="cpu")
    tokens = random_tokens(vocab_size=66, padded=True)
    expected = sfm(tokens)
    for loaded in (model, again):
        assert (loaded.sfm.config, loaded.vgae.config) == (sfm.config, vgae.config)
        same_module(loaded.sfm, sfm)
        same_module(loaded.vgae, vgae)
        assert torch.equal(loaded.sfm(tokens).scores(), expected.scores())
        assert torch.equal(loaded.sfm(tokens).summary, expected.summary)
    assert not any(module.training for module in (model.sfm, model.vgae))


@pytest.mark.parametrize("changes", [{}, {"use_rotary": False, "head_hidden_dim": 5}, {"rotary_interleaved": True}])
@torch.no_grad()
def test_an_embedding_module_comes_back_too(changes, tmp_path):
    efm = random_efm(**changes)
    model = sccafm.load(write_release(tmp_path / "a", random_sfm(), random_vgae(), efm), device="cpu")
    again = sccafm.load(model.save_pretrained(tmp_path / "b"), device="cpu")
    for loaded in (model, again):
        assert loaded.efm.config == efm.config
        assert torch.equal(loaded.efm(random_tokens()), efm(random_tokens()))


def test_a_gap_in_the_vocabulary_has_a_row_of_its_own(release):
    model = sccafm.load(release, device="cpu")
    assert len(model.vocabulary) == 60
    assert model.sfm.embedding.gene_embedding.weight.shape == (66, 16)  # four special tokens, the gap, 60 genes
    assert 5 not in model.vocabulary.tokens


def test_a_state_without_prefix_is_a_structure_module_alone(tmp_path):
    sfm = random_sfm()
    model = sccafm.load(write_release(tmp_path / "bare", sfm, prefix=False), device="cpu")
    same_module(model.sfm, sfm)
    assert model.vgae is None
    assert model.efm is None
    again = sccafm.load(model.save_pretrained(tmp_path / "again"), device="cpu")
    same_module(again.sfm, sfm)
    assert again.vgae is None


def test_keys_of_other_heads_are_left_aside(release):
    change(release / WEIGHTS, lambda w: w | {"head_modules.other.weight": torch.zeros(3)})
    same_module(sccafm.load(release, device="cpu").sfm, random_sfm())


def test_half_precision_weights_are_read_as_float32(release):
    change(release / WEIGHTS, lambda w: {key: tensor.bfloat16() for key, tensor in w.items()})
    found = sccafm.load(release, device="cpu").sfm.state_dict()
    for key, tensor in random_sfm().state_dict().items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], tensor.bfloat16().float())


def structure(release, *names):
    """Move logical files of a flat release to where the structured layout keeps them."""
    for name in names:
        structured, flat, *_ = CANDIDATES[name]
        (release / structured).parent.mkdir(parents=True, exist_ok=True)
        (release / flat).rename(release / structured)


@pytest.mark.parametrize(
    "names",
    [("sfm_config",), ("sfm_model", "vocab"), ("cond_dict", "human_tfs"), ("efm_model", "omnipath", "homologous")],
)
def test_layouts_may_be_mixed(release, names):
    structure(release, *names)
    model = sccafm.load(release, device="cpu")
    same_module(model.sfm, random_sfm())
    same_module(model.efm, random_efm())
    assert {name: str(model.files[name].relative_to(release)) for name in names} == {
        name: CANDIDATES[name][0] for name in names
    }


def test_files_may_stand_in_the_folder_itself(release):
    for path in (release / "models").iterdir():
        path.rename(release / path.name)
    same_module(sccafm.load(release, device="cpu").sfm, random_sfm())


def test_the_structured_file_wins_over_the_flat_one(release):
    other = write_release(release.parent / "other", random_sfm(seed=9), random_vgae())
    (release / "models/sfm").mkdir()
    shutil.copy(other / WEIGHTS, release / "models/sfm/sfm_model.safetensors")
    same_module(sccafm.load(release, device="cpu").sfm, random_sfm(seed=9))


def test_tables_that_a_release_lacks_are_borrowed_from_the_bundle(release):
    (release / "homologous.csv").unlink()
    files = sccafm.load(release, device="cpu").files
    assert files["homologous"] == bundled() / "homologous.csv"
    assert files["human_tfs"] == release / "human_tfs.csv"


def test_the_condition_table_sizes_the_embedding_whatever_the_config_says(release):
    change(release / CONFIG, setting("sfm", cond_vocab_size=999))
    assert sccafm.load(release, device="cpu").sfm.embedding.condition_embedding.cond_embedding.num_embeddings == 6


def test_loading_leaves_the_random_state_alone(release):
    before = torch.get_rng_state()
    sccafm.load(release, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


# What is wrong with a file, and what the message says of it.


@pytest.mark.parametrize(
    ("file", "function", "message"),
    [
        (
            WEIGHTS,
            lambda w: w | {WRAPPED + "embedding.zero_embedding": torch.zeros(16)},
            r"renaming of 2026-05-05 \(it holds 'embedding.zero_embedding'",
        ),
        (
            WEIGHTS,
            drop(WRAPPED + "backbone.layers.1.attn.out_proj.weight"),
            r"1 tensors are missing \(first \['backbone.layers.1.attn.out_proj.weight'\]\)",
        ),
        (
            WEIGHTS,
            lambda w: w | {WRAPPED + "backbone.layers.2.attn_norm.weight": torch.zeros(16)},
            r"1 are not expected \(first \['backbone.layers.2.attn_norm.weight'\]\)",
        ),
        (WEIGHTS, drop("head_modules.vgae.encoder.expr_proj.proj.0.bias"), r"encoder.expr_proj.proj.0.bias"),
        (
            WEIGHTS,
            lambda w: w | {WRAPPED + "tf_router.mlp.3.weight": torch.zeros(13, 10)},
            r"tf_router.mlp.3.weight should have the shape \(12, 10\).*it has \(13, 10\)",
        ),
        (CONFIG, setting("sfm", embed_dim=32), r"should have the shape .*32.*it has .*16"),
        (CONFIG, setting("sfm", depth=3), r"unknown keys \['depth'\] for SFMConfig; known are .*num_layers"),
        (CONFIG, setting("vgae", width=3), r"unknown keys \['width'\] for VGAEConfig"),
        (CONFIG, drop("vgae"), r"needs the sections \['sfm', 'vgae'\]; it has \['sfm'\]"),
        (CONFIG, drop("sfm"), r"needs the sections \['sfm', 'vgae'\]; it has \['vgae'\]"),
        (CONFIG, lambda c: c | {"sfm": None}, r"needs the sections \['sfm', 'vgae'\]; it has \['vgae'\]"),
        (CONFIG, lambda c: 3, r"needs the sections \['sfm', 'vgae'\]; it has \[\]"),
        ("models/efm_config.json", drop("efm"), r"needs the sections \['efm'\]; it has \[\]"),
        ("models/efm_model.safetensors", drop("ph_exp.net.3.bias"), r"missing \(first \['ph_exp.net.3.bias'\]\)"),
        ("models/vocab.json", lambda v: [*v, v[0]], r"vocab.json gives token_index 65 twice"),
        ("models/vocab.json", lambda v: v[1:], r"gene_embedding.weight should have the shape \(65, 16\)"),
        ("models/cond_dict.json", lambda c: c[1:], r"must give '<unk>' the index 0"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_leaf(release, file, function, message):
    change(release / file, function)
    with pytest.raises(ValueError, match=message) as caught:
        sccafm.load(release, device="cpu")
    assert str(release) in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("sfm", "topk", -1, "SFMConfig: topk must be null or a whole number of at least 0, got -1"),
        ("sfm", "topk", 2.5, "topk must be null or a whole number of at least 0, got 2.5"),
        ("sfm", "router_temperature", 0, "router_temperature must be a number above 0, got 0"),
        ("sfm", "expr_tau", -1.0, "expr_tau must be a number above 0, got -1.0"),
        ("sfm", "batch_tau", "warm", "batch_tau must be a number above 0, got 'warm'"),
        ("sfm", "beta_momentum", 0.0, "beta_momentum must be a number above 0 and at most 1, got 0.0"),
        ("sfm", "num_heads", 0, "num_heads must be a whole number of at least 1, got 0"),
        ("sfm", "num_heads", 3, "embed_dim must be a multiple of num_heads, got 16 and 3"),
        ("sfm", "num_layers", None, "num_layers must be a whole number of at least 0, got None"),
        ("sfm", "expr_num_bins", 1, "expr_num_bins must be a whole number of at least 2, .* got 1"),
        ("sfm", "use_rotary", "yes", "use_rotary must be true or false, got 'yes'"),
        ("sfm", "out_dropout", 1.5, "out_dropout must be a number from 0 to 1, got 1.5"),
        ("sfm", "backbone_mlp_hidden_dim", 0, "backbone_mlp_hidden_dim must be null or a whole number of at least 1"),
        ("vgae", "hidden_dim", True, "VGAEConfig: hidden_dim must be a whole number of at least 1, got True"),
        ("vgae", "fp_damping", None, "fp_damping must be a number, got None"),
        ("efm", "norm_eps", -1, "EFMConfig: norm_eps must be a number of at least 0, got -1"),
    ],
)
def test_a_setting_that_no_network_can_have_is_named(release, section, key, value, message):
    file = "models/efm_config.json" if section == "efm" else CONFIG
    change(release / file, setting(section, **{key: value}))
    with pytest.raises(ValueError, match=rf"{Path(file).name}, .*{message}"):
        sccafm.load(release, device="cpu")


@pytest.mark.parametrize(("kept", "missing"), [("efm_config", "efm_model"), ("efm_model", "efm_config")])
def test_half_an_embedding_module_warns(release, kept, missing):
    next((release / "models").glob(f"{missing}.*")).unlink()
    with pytest.warns(UserWarning, match=f"holds {kept} .*without its other half, looked for .*{missing}.*no EFM"):
        assert sccafm.load(release, device="cpu").efm is None


@pytest.mark.parametrize("file", [CONFIG, "models/efm_config.json", "models/vocab.json", "models/cond_dict.json"])
def test_damaged_json_is_named(release, file):
    (release / file).write_text((release / file).read_text()[:-20])
    with pytest.raises(ValueError, match=rf"{Path(file).name} is not JSON"):
        sccafm.load(release, device="cpu")


def test_a_config_that_is_no_text_is_named(release):
    (release / CONFIG).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="sfm_config.json is not JSON"):
        sccafm.load(release, device="cpu")


@pytest.mark.parametrize("kept", [0, 5, 400, -1])
def test_a_truncated_weights_file_is_named(release, kept):
    content = (release / WEIGHTS).read_bytes()
    (release / WEIGHTS).write_bytes(content[:kept])
    with pytest.raises(ValueError, match="sfm_model.safetensors is no complete safetensors file.*cut short"):
        sccafm.load(release, device="cpu")


def test_a_git_lfs_pointer_is_recognised(release):
    (release / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        sccafm.load(release, device="cpu")


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, "models/vocab.json", "models/cond_dict.json"])
def test_a_missing_file_is_named_with_the_places_looked_at(release, file):
    (release / file).unlink()
    name = {"sfm_config.json": "sfm_config", "sfm_model.safetensors": "sfm_model"}.get(Path(file).name, Path(file).stem)
    with pytest.raises(FileNotFoundError, match=rf"it lacks {name}, looked for .*{file}"):
        sccafm.load(release, device="cpu")


@pytest.mark.parametrize(
    "kind", ["./modles", "modles", "models/modles", "a/b/modles", "/nowhere/modles", Path("no/modles")]
)
def test_a_mistyped_folder_is_no_matter_for_the_hub(kind, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder .*modles") as caught:
        sccafm.load(kind)
    assert "hub was asked" not in str(caught.value)


def test_a_file_is_no_model(release):
    with pytest.raises(FileNotFoundError, match=r"is a file; a model is a folder, e.g. sccafm.load\("):
        sccafm.load(release / WEIGHTS)


def test_an_unreachable_hub_is_told_with_its_reason():
    with pytest.raises(
        FileNotFoundError, match=r"no local folder 'owner/name'.*hub.*ConnectionError: the hub was asked"
    ):
        sccafm.load("owner/name")


def test_a_hub_repository_is_loaded_from_its_snapshot(release, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, **settings):
        asked.update(settings, repo_id=repo_id)
        return str(release)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model = sccafm.load("owner/name", revision="v1", local_files_only=True, device="cpu")
    assert (model.source, model.revision) == ("owner/name", "v1")
    assert (asked["repo_id"], asked["revision"], asked["local_files_only"]) == ("owner/name", "v1", True)
    assert {CONFIG, WEIGHTS, "tokenizer/vocab.json", "resources/OmniPath.csv"} <= set(asked["allow_patterns"])
    same_module(model.sfm, random_sfm())


def test_a_device_that_is_not_there_is_refused(release, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert sccafm.load(release, device="auto").device.type == "cpu"
    with pytest.raises(ValueError, match='device must be "auto", "cpu", "cuda".*got .gpu.'):
        sccafm.load(release, device="gpu")
    with pytest.raises(ValueError, match='sees no CUDA device; pass device="cpu"'):
        sccafm.load(release, device="cuda")


def test_saving_refuses_a_folder_with_content(release, tmp_path):
    model = sccafm.load(release, device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full is not empty"):
        model.save_pretrained(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert model.save_pretrained(tmp_path / "empty") == tmp_path / "empty"


def test_saving_writes_the_published_flat_layout_with_all_tables(release, tmp_path):
    structure(release, "sfm_config", "sfm_model", "vocab", "human_tfs")
    folder = sccafm.load(release, device="cpu").save_pretrained(tmp_path / "deep/saved")
    for name in ("sfm_config.json", "sfm_model.safetensors", "efm_model.safetensors", "vocab.json", "cond_dict.json"):
        assert (folder / "models" / name).is_file()
    for name in ("human_tfs.csv", "mouse_tfs.csv", "OmniPath.csv", "homologous.csv"):
        assert (folder / name).read_bytes() == next(release.rglob(name)).read_bytes()
    assert load_file(folder / WEIGHTS).keys() == load_file(release / "models/sfm/sfm_model.safetensors").keys()


def test_saving_that_fails_leaves_no_folder(release, tmp_path, monkeypatch):
    model = sccafm.load(release, device="cpu")

    def disk_full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("sccafm.model.model.save_sfm", disk_full)
    with pytest.raises(OSError, match="no space left"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_model_tells_what_it_is(release):
    told = repr(sccafm.load(release, device="cpu"))
    for part in (str(release), "width 16", "2 layers", "12 factors", "EFM loaded", "60 genes", "on cpu"):
        assert part in told


def test_the_weights_hash_follows_the_weights(release):
    before = sccafm.load(release, device="cpu").weights_hash
    change(release / WEIGHTS, lambda w: w | {WRAPPED + "backbone.final_norm.weight": torch.ones(16)})
    assert sccafm.load(release, device="cpu").weights_hash != before


def test_a_folder_of_tables_alone_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no model folder: it lacks sfm_config"):
        sccafm.load(write_tables(tmp_path / "tables"))


def test_cards_take_their_pictures_along(tmp_path):
    folder = sccafm.load(device="cpu").save_pretrained(tmp_path / "saved") / "models"
    shown = [name for card in ("README.md", "efm_card.md") for name in PICTURE.findall((folder / card).read_text())]
    assert len(shown) == 3
    assert all((folder / name).is_file() for name in shown)


def test_saving_keeps_the_hash_by_which_results_know_the_weights(release, tmp_path):
    model = sccafm.load(release, device="cpu")
    assert sccafm.load(model.save_pretrained(tmp_path / "same"), device="cpu").weights_hash == model.weights_hash
    with torch.no_grad():
        model.sfm.embedding.prefix_type_embedding += 1
    other = sccafm.load(model.save_pretrained(tmp_path / "other"), device="cpu")
    assert other.weights_hash != model.weights_hash
    assert torch.equal(other.sfm.embedding.prefix_type_embedding, model.sfm.embedding.prefix_type_embedding)
