"""The training loop: a plain loop gives the same weights, and two processes the same as one."""

import dataclasses
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import rank
import torch
from making import random_sfm, random_vgae, write_release
from safetensors.torch import load_file
from training import settings, write_cells

import sccafm
from sccafm.nn.routing import balanced_beta
from sccafm.train import machine, train_sfm
from sccafm.train.checkpoint import load_checkpoint
from sccafm.train.config import Machine, StreamConfig
from sccafm.train.engine import BEST, CHECKPOINT, Reader, schedule

TIMEOUT = 180  # seconds; two processes that wait for each other must not hold up the tests


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / CHECKPOINT)


def assert_close(run: Path, other: Path, tolerance: float):
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken")
    rank.train(run)
    return run


# One process


def test_the_weights_are_those_of_a_plain_loop(unbroken):
    toy, config = rank.Toy(), rank.settings()
    optimizer = toy.optimizer()
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = 0.01 * schedule(step, config)
        total, batches = 0.0, [rank.Data().train_batch(4 * step + lane) for lane in range(4)]
        for lane, batch in enumerate(batches):
            torch.manual_seed(config.seed * 1_000_003 + 4 * step + lane)
            total = total + toy.total(toy(batch)[0]) / 4
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(toy.parameters(), config.clip)
        optimizer.step()
        toy.load.lerp_(torch.cat([batch.x for batch in batches]).mean(0), 0.5)
    kept = rank.Toy()
    assert load_checkpoint(unbroken / CHECKPOINT, kept)["step"] == 7
    for name, value in toy.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_run_taken_up_again_has_the_same_bits(unbroken, tmp_path, stop):
    with pytest.raises(ValueError, match="killed"):
        rank.train(tmp_path, stop=stop)
    rank.train(tmp_path)
    for file in (CHECKPOINT, "log.csv"):
        assert (tmp_path / file).read_bytes() == (unbroken / file).read_bytes()


def test_the_reader_gives_the_batches_in_order(unbroken):
    data = rank.Data()
    reader = Reader(data, iter(range(20)), threads=3)
    for number in range(20):
        assert torch.equal(next(reader).x, rank.Data().train_batch(number).x)
    reader.close()
    assert sorted(data.given) == list(range(20))


def test_a_run_without_progress_ends_and_keeps_its_best_weights(tmp_path):
    class Other(rank.Data):
        def validation_batch(self, number):
            return rank.Batch(torch.full((6, 4), 100.0), "held out")  # a shift that training does not know

    steps = {"steps": 400, "validate_every": 1, "patience": 3}
    path, _ = rank.train(tmp_path, Other(), **steps)
    log = pd.read_csv(tmp_path / "log.csv").query("part == 'validation'")
    best = log["total"].to_numpy().argmin()
    assert path == tmp_path / BEST
    assert len(log) == best + 1 + 3 < 400
    assert load_checkpoint(path, rank.Toy())["step"] == best + 1
    before = path.read_bytes()
    assert rank.train(tmp_path, **steps) == (path, [])  # it stays ended
    assert path.read_bytes() == before


def test_a_number_that_is_not_finite_is_named_with_its_file(tmp_path):
    with pytest.raises(FloatingPointError, match=r"step 2: fit is nan on a batch of file0.h5ad; the run stops here"):
        rank.train(tmp_path, rank.Data(poisoned=9))
    assert load_checkpoint(tmp_path / CHECKPOINT, rank.Toy())["step"] == 2


def test_bfloat16_is_near_float32(unbroken, tmp_path):
    rank.train(tmp_path, machine=Machine(precision="bf16-mixed"))
    difference = weights(tmp_path)["model.layer.0.weight"] - weights(unbroken)["model.layer.0.weight"]
    assert 0 < difference.abs().max() < 0.02


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / CHECKPOINT, {"step": "3"})
    with pytest.raises(ValueError, match="written by an older version"):
        rank.train(tmp_path)


def test_without_lightning_fabric_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"training needs lightning-fabric: pip install 'sccafm\[train\]'"):
        machine.connect(Machine(), "cpu", 1, list)


# How processes are found


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "fit"}, (4, 2)),
        ({"SLURM_NTASKS": "6", "SLURM_NNODES": "2"}, (3, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash"}, None),
    ],
)
def test_torchrun_and_slurm_say_how_many_processes_there_are(environment, expected):
    assert machine.launched(environment) == expected


def test_settings_that_contradict_the_launcher_are_refused(monkeypatch):
    monkeypatch.setattr(machine, "launched", lambda: (4, 2))
    assert machine.count_processes(Machine()) == (4, 2)
    with pytest.raises(ValueError, match="machine.devices is 2, but 4 were started"):
        machine.count_processes(Machine(devices=2))


def test_batches_that_the_processes_cannot_share_are_refused():
    with pytest.raises(
        ValueError, match=r"2 processes cannot share accumulate_grad_batches=3 equally; set it to a multiple, e.g. 2"
    ):
        machine.connect(Machine(devices=2), "cpu", 3, list)


def test_one_process_says_that_it_shards_nothing():
    with pytest.warns(UserWarning, match='machine.strategy="fsdp" is ignored'):
        machine.choose_strategy(Machine(strategy="fsdp"), 1, list)


@pytest.mark.parametrize(("environment", "first"), [({}, True), ({"RANK": "0"}, True), ({"SLURM_PROCID": "3"}, False)])
def test_one_process_speaks(environment, first):
    assert machine.is_first(environment) == first


# Two processes


def start(folder: Path, sfm: Path, port: int, number: int, said) -> subprocess.Popen:
    ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    # What torchrun sets, without its agent.
    names = ranks | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": 1,
    }
    code = [sys.executable, "-W", "ignore", rank.__file__, str(folder), str(sfm)]
    environment = os.environ | {name: str(value) for name, value in names.items()}
    return subprocess.Popen(code, env=environment, stdout=said, stderr=said)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Settings of a streamed run of two micro-batches a step; one of its three files is cut short."""
    root = tmp_path_factory.mktemp("corpus")
    write_cells(root / "data/human.h5ad")
    write_cells(root / "data/mouse.h5ad", str.title, 1)
    (root / "data/short.h5ad").write_bytes((root / "data/human.h5ad").read_bytes()[:3000])
    sfm = random_sfm(num_layers=1, freeze_loaded_gene_embeddings=True, beta_momentum=0.05)
    begun = write_release(root / "begun", sfm, random_vgae())
    streamed = {
        "accumulate_grad_batches": 2,
        "on_bad_file": "skip",
        "stream": StreamConfig(above=0, block=10, window=30, windows=2),
    }
    return settings(root / "data", root / "run", init=begun, **streamed)


@pytest.fixture(scope="module")
def two(unbroken, corpus, tmp_path_factory):
    """What two processes left; see `rank.main`."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("taken over", "taken over, sharded"):  # one process began, two go on
        with pytest.raises(ValueError, match="killed"):
            rank.train(folder / name, stop=5)
    sfm = folder / "sfm.json"
    sfm.write_text(json.dumps(dataclasses.asdict(corpus) | {"run": folder / "sfm"}, default=str))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "said.txt").open("w") as said:
        processes = [start(folder, sfm, port, number, said) for number in range(2)]
        end = time.monotonic() + TIMEOUT
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break  # one failed; the other waits for it
            time.sleep(0.1)
        for process in processes:
            process.kill()
        codes = [process.wait() for process in processes]
    assert codes == [0, 0], (folder / "said.txt").read_text()
    return folder


def test_two_processes_share_the_batches_of_one(two):
    given = [json.loads((two / f"rank{number}.json").read_text())["given"] for number in range(2)]
    assert sorted(given[0] + given[1]) == list(range(28))
    assert len(given[0]) == len(given[1])


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_train_to_the_weights_of_one(unbroken, two, how):
    assert_close(unbroken, two / how, 2e-6)
    one, other = (pd.read_csv(run / "log.csv").set_index(["step", "part"]) for run in (unbroken, two / how))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)


def test_two_processes_taken_up_again_have_the_same_bits(two):
    for file in (CHECKPOINT, "log.csv"):
        assert (two / "ddp" / file).read_bytes() == (two / "again" / file).read_bytes()


@pytest.mark.parametrize("began", ["handed over", "sharded, handed over"])
def test_one_process_goes_on_where_two_began(unbroken, two, began, tmp_path):
    shutil.copytree(two / began, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT, rank.Toy())["step"] == 4
    _, given = rank.train(tmp_path / "run")
    assert sorted(given) == list(range(16, 28))
    assert_close(unbroken, tmp_path / "run", 2e-6)


@pytest.mark.parametrize("name", ["taken over", "taken over, sharded"])
def test_two_processes_go_on_where_one_began(unbroken, two, name):
    assert_close(unbroken, two / name, 2e-6)


def test_both_processes_stop_at_a_number_that_one_met(two):
    told = [json.loads((two / f"rank{number}.json").read_text()) for number in range(2)]
    assert {t["poisoned"] for t in told} == {"step 2: fit is nan on a batch of file0.h5ad; the run stops here"}
    assert all("2 processes cannot share accumulate_grad_batches=3" in t["indivisible"] for t in told)


def test_two_processes_stream_to_the_model_of_one(two, corpus):
    with pytest.warns(UserWarning, match=r"1 of 3 files are skipped:\n.*short.h5ad"):
        train_sfm(corpus, progress=False)
    one, other = weights(corpus.run), weights(two / "sfm")
    # Moments: a bias before a softmax has no gradient but rounding, which the optimiser then magnifies.
    moments = [name for name in one if name.startswith("optimizer.exp_avg.")]
    for name in moments:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5, msg=name)
    offsets = "model.sfm.tf_router.gating.beta_qb"
    torch.testing.assert_close(one[offsets], other[offsets], rtol=1e-4, atol=1e-5)
    assert sccafm.load(two / "sfm/model", device="cpu").sfm.config == sccafm.load(corpus.init, device="cpu").sfm.config
    card = (two / "sfm/model/models/README.md").read_text()
    assert "- short.h5ad: " in card
    assert "| human.h5ad | human | 60 |" in card


# The load balance


def test_offsets_move_to_the_mean_over_tokens_of_what_batches_ask():
    from sccafm.train.sfm import Trainer

    sfm = random_sfm(beta_momentum=1.0)
    fake = SimpleNamespace(sfm=sfm, routers=lambda routing: Trainer.routers(fake, routing))
    logits = [torch.randn(n, 12, generator=torch.Generator().manual_seed(n)) for n in (30, 50)]
    before = sfm.tf_router.gating.beta_qb.clone()
    sums = [Trainer.measure(fake, SimpleNamespace(tf_logits=x, tg_logits=x)) for x in logits]
    Trainer.after_step(fake, {name: sums[0][name] + sums[1][name] for name in sums[0]})
    asked = [balanced_beta(x, before, 4) for x in logits]
    torch.testing.assert_close(sfm.tf_router.gating.beta_qb, (30 * asked[0] + 50 * asked[1]) / 80)
    assert not math.isclose(float(asked[0][0]), float(asked[1][0]))
