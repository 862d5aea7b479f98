"""The training loop: what it learns, and that it learns the same bits after any interruption."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fastia
from fastia import cli
from fastia.data.shapes import make_shapes
from fastia.models import DeepLabV2
from fastia.training import checkpoint, monitor, objective
from fastia.training.config import Config, load
from fastia.training.processes import Processes, joined
from fastia.training.run import Training, train
from fastia.training.schedule import poly
from fastia.training.validation import validate

TINY = (
    "iterations=8", "switch=4", "batch_size=2", "crop=32", "scales=[0.5, 0.5]", "learning_rate=5e-4", "ewc_lambda=20",
    "accumulation=2", "log_every=1", "checkpoint_every=2", "validate_every=0", "val_split=", "check=false",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """One thread, for networks this small gain nothing from two; curves, slower than training, only with scores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    draw = monitor.write_curves
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fastia.training.run.write_curves", lambda *rows: draw(*rows) if rows[1] else None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, 9, size=(160, 160))
    return folder


def tiny(shapes: Path, output: Path, *overrides: str) -> Config:
    return load("shapes", [*TINY, f"dataset={shapes}", f"output={output}", *overrides])


def state(output: Path) -> dict:
    """What the last checkpoint holds, without what depends on the clock and the folder."""
    held = checkpoint.load_latest(output)[1]
    for row in held["history"]:
        del row["images_per_second"]
    return held | {"config": None}


def assert_same_bits(one: object, other: object) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for parts in zip(one, other, strict=True):
            assert_same_bits(*parts)
    else:
        assert one == other


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(shapes: Path, finished_run: Path) -> dict:
    train(tiny(shapes, finished_run))
    return state(finished_run)


# What is learned


def test_poly_schedule_steps_every_so_many_iterations() -> None:
    factors = [poly(i, 30_000, 0.9, 10) for i in (0, 9, 10, 19, 15_000, 29_999)]
    expected = [1, 1, (1 - 10 / 30_000) ** 0.9, (1 - 10 / 30_000) ** 0.9, 0.5**0.9, (10 / 30_000) ** 0.9]
    assert factors == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def learned(shapes: Path, tmp_path_factory) -> Training:
    """A run on one image, which is also the one it is scored on."""
    root = tmp_path_factory.mktemp("one image")
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets"):
        (root / folder).symlink_to(shapes / folder)
    (root / "classes.txt").write_text((shapes / "classes.txt").read_text())
    overrides = [
        "iterations=40",
        "switch=20",
        "crop=64",
        "flip=false",
        "accumulation=1",
        "learning_rate=2e-3",
        "log_every=10",
    ]
    paths = ["pseudo_masks=", "train_split=val", "val_split=val", "classes=classes.txt"]
    return train(tiny(root, root / "run", *overrides, *paths, "validate_every=20", "check=true"))


def test_loss_falls_in_both_tasks_and_the_penalty_is_above_0_after_the_switch(learned: Training) -> None:
    history = learned.history
    assert [row["phase"] for row in history] == ["A"] * 2 + ["B"] * 2
    losses = [row["loss"] for row in history]
    assert losses[1] < 0.95 * losses[0]
    assert losses[3] < losses[2]
    assert [row["penalty"] > 0 for row in history] == [False] * 2 + [True] * 2
    assert [row["iteration"] for row in learned.validations] == [20, 40]


def test_predictions_on_disk_score_as_the_network_did(learned: Training) -> None:
    scores = learned.evaluation.scores
    assert {"iteration": 40, **scores} == pytest.approx(learned.validations[-1], nan_ok=True, abs=0)
    assert {path.name for path in learned.output.iterdir()} == {
        "checkpoint-00000038.pt", "checkpoint-00000040.pt", "config.toml", "history.csv", "validation.csv",
        "curves.png", "predictions", "scores.json", "scores.png",
    }  # fmt: skip
    assert len([*(learned.output / "predictions").iterdir()]) == 3


def test_first_step_is_that_of_a_loop_written_by_hand(shapes: Path, tmp_path) -> None:
    """Two batches are averaged, the weighted loss divided by the sum of weights, and SGD steps on each group."""
    config = tiny(shapes, tmp_path, "iterations=1", "switch=0", "weight_decay=0.1")
    result = train(config)
    torch.manual_seed(config.seed)
    model = DeepLabV2(7, backbone="small", scales=(1.0,))
    optimizer = torch.optim.SGD(model.parameter_groups(config.learning_rate, 0.1), momentum=0.9)
    from fastia.data.training import TrainingSet, batches, normalized

    names = (shapes / "ImageSets/Segmentation/train.txt").read_text().split()
    data = TrainingSet(shapes / "JPEGImages", shapes / "PseudoMasks", names, 32, scales=(0.5, 0.5))
    losses = [
        fastia.size_weighted_cross_entropy(model(normalized(images))[0], target, tau=config.tau)
        for images, target in batches(data, 0, 2, batch_size=2)
    ]
    (sum(losses) / 2).backward()
    optimizer.step()
    assert result.history[0]["loss"] == pytest.approx(sum(losses).item() / 2, rel=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value)


@pytest.mark.parametrize("normalize", ["weights", "valid", "pixels"])
@pytest.mark.parametrize("resize", ["logits", "target"])
def test_sum_over_denominator_is_the_mean_of_the_operation(resize: str, normalize: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 8, 9, generator=generator)
    target = torch.randint(0, 6, (2, 30, 34), generator=generator).to(torch.uint8)
    target[target == 5] = 255
    config = load(None, [f"resize={resize}", f"normalize={normalize}", "tau=3"])
    for loss, tau in ((objective.cross_entropy(config), 1), (objective.size_weighted_cross_entropy(config), 3)):
        total, denominator = loss(logits, target)
        expected = fastia.size_weighted_cross_entropy(logits, target, tau=tau, resize=resize, normalize=normalize)
        torch.testing.assert_close((total / denominator).float(), expected, rtol=1e-6, atol=0)


def test_own_loss_weights_and_penalty_take_part(shapes: Path, tmp_path) -> None:
    calls = {"loss": 0, "weights": 0}

    def loss(logits, target):
        calls["loss"] += 1
        return logits.square().mean(), torch.ones(())

    def weights(target):
        calls["weights"] += 1
        return torch.ones(target.shape)

    class Anchor(fastia.EWC):
        def add_penalty_gradient_(self, strength):
            return 0 * super().add_penalty_gradient_(strength) + 3

    result = train(tiny(shapes, tmp_path / "a"), loss=loss, ewc=Anchor)
    assert calls == {"loss": 8, "weights": 0}
    assert [row["penalty"] for row in result.history] == [0] * 4 + [3] * 4
    train(tiny(shapes, tmp_path / "b"), weights=weights)
    assert calls == {"loss": 8, "weights": 8}


def test_bfloat16_forward_stays_near_float32(shapes: Path, tmp_path, undisturbed: dict) -> None:
    result = train(tiny(shapes, tmp_path, "iterations=3", "switch=2", "precision=bfloat16"))
    for row, expected in zip(result.history[:2], undisturbed["history"], strict=False):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.02)


def test_lambda_too_large_for_the_learning_rate_is_told(shapes: Path, tmp_path, capsys) -> None:
    train(tiny(shapes, tmp_path / "a", "iterations=1", "switch=0", "ewc_lambda=1e6"))
    assert capsys.readouterr().err == ""
    train(tiny(shapes, tmp_path / "b", "iterations=2", "switch=1", "ewc_lambda=191"))  # classifier's bias: 20 * 5e-4
    assert "ewc_lambda 191 times the largest learning rate at the switch, 0.01, exceeds" in capsys.readouterr().err


def test_diverged_loss_is_an_error(shapes: Path, tmp_path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at iteration \d+: lower learning_rate"):
        train(tiny(shapes, tmp_path, "learning_rate=1e9"))


# Interruptions


def run_to_the_end(config: Config) -> None:
    torch.set_num_threads(1)
    train(config, resume=True)


def test_killed_at_random_moments_and_resumed_it_learns_the_same_bits(shapes, tmp_path, undisturbed) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastia.training.run", "fastia.models"])  # torch is imported once
    seed = random.randrange(2**32)
    wait = random.Random(seed)
    kills = 0
    while True:
        process = context.Process(target=run_to_the_end, args=(tiny(shapes, tmp_path),))
        process.start()
        process.join(None if kills == 3 else wait.uniform(0.5, 1.5))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    assert process.exitcode == 0
    assert kills, "never killed: the run ended too soon"
    assert_same_bits(state(tmp_path), undisturbed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_ends(number, status, shapes, tmp_path, capsys, undisturbed) -> None:
    """In task B, in the middle of a step, before an iteration that has no checkpoint of its own."""
    calls = 0

    def weights(target):
        nonlocal calls
        calls += 1
        if calls == 6:
            os.kill(os.getpid(), number)
        return fastia.weights(target)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(tiny(shapes, tmp_path), weights=weights)
    assert stopped.value.code == status
    assert signal.getsignal(number) == before
    assert f"Stopped by {number.name} after 7 of 8 iterations; a checkpoint is in {tmp_path}" in capsys.readouterr().err
    assert checkpoint.find(tmp_path)[0].name == "checkpoint-00000007.pt"
    train(tiny(shapes, tmp_path), resume=True)
    assert_same_bits(state(tmp_path), undisturbed)


def test_full_disk_is_told_and_the_run_goes_on(shapes, tmp_path, capsys, monkeypatch, undisturbed) -> None:
    write = checkpoint.save

    def full_for_a_while(folder, iteration, state):
        if iteration in (4, 6):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(folder, iteration, state)

    monkeypatch.setattr(checkpoint, "save", full_for_a_while)
    train(tiny(shapes, tmp_path))
    text = "Warning: the checkpoint of iteration 4 cannot be written: [Errno 28] No space left on device; checkpoint-"
    assert f"{text}00000002.pt is still there" in capsys.readouterr().err
    assert_same_bits(state(tmp_path), undisturbed)


def test_full_disk_at_the_end_is_an_error(shapes, tmp_path, monkeypatch) -> None:
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match=r"of iteration 8 cannot be written: .*No space left.*; there is none yet"):
        train(tiny(shapes, tmp_path))


def test_damaged_checkpoint_costs_two_iterations(shapes, tmp_path, capsys, undisturbed, finished_run) -> None:
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    last = checkpoint.find(tmp_path)[0]
    last.write_bytes(last.read_bytes()[:-1000])
    train(tiny(shapes, tmp_path), resume=True)
    assert f"{last}: damaged checkpoint: " in capsys.readouterr().err
    assert_same_bits(state(tmp_path), undisturbed)


@pytest.mark.usefixtures("undisturbed")
def test_another_run_is_neither_overwritten_nor_mixed_in(shapes, finished_run) -> None:
    with pytest.raises(ValueError, match=r"holds checkpoint-00000008\.pt: resume that run, or choose another output"):
        train(tiny(shapes, finished_run))
    with pytest.raises(ValueError, match=r"cannot be resumed:\n  tau was 5\.0 and is 4\.0$"):
        train(tiny(shapes, finished_run, "tau=4"), resume=True)


# Several processes


def run_rank(rank: int, count: int, folder: str, config: Config) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    result = train(config)
    with joined("cpu") as here:
        scores = score(here, config, checkpoint.find(Path(folder) / "one")[0])
    torch.save((result.model.state_dict(), result.history, scores), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def score(here: Processes, config: Config, path: Path) -> dict[str, float]:
    from fastia.data.voc import Dataset

    model = DeepLabV2(7, backbone="small", scales=(1.0,))
    model.load_state_dict(checkpoint.load(path)["model"])
    dataset = Dataset(config.dataset)
    return validate(model, dataset, dataset.ids("all"), here, num_classes=7)


def test_two_processes_follow_one_to_rounding_and_score_the_same_bits(shapes: Path, tmp_path: Path) -> None:
    options = ("iterations=20", "switch=10", "batch_size=4", "accumulation=1")
    one = train(tiny(shapes, tmp_path / "one", *options))
    two = tiny(shapes, tmp_path / "two", *options)
    multiprocessing.set_forkserver_preload(["fastia.training.run", "fastia.models"])
    arguments = (2, str(tmp_path), two)
    torch.multiprocessing.start_processes(run_rank, arguments, 2, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in one.model.state_dict().items():
        assert torch.equal(ranks[0][0][name], ranks[1][0][name])
        torch.testing.assert_close(ranks[0][0][name], value, rtol=1e-4, atol=1e-6)
    losses = [[row["loss"] for row in history] for history in (one.history, ranks[0][1], ranks[1][1])]
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=1e-5)
    expected = score(Processes(0, 1, torch.device("cpu")), two, checkpoint.find(tmp_path / "one")[0])
    assert repr(ranks[0][2]) == repr(ranks[1][2]) == repr(expected)


# The command line


def command(*arguments: str):
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["train", *arguments])


def test_command_trains_scores_and_says_what_it_wrote(shapes: Path, tmp_path) -> None:
    overrides = [*TINY, f"dataset={shapes}", f"output={tmp_path / 'run'}", "val_split=val", "iterations=2", "switch=1"]
    done = command("--config", "shapes", *overrides)
    assert done.exit_code == 0, done.stderr
    assert any(line.split()[:1] == ["overall"] for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1].startswith(f"Wrote {tmp_path / 'run'}: checkpoint-00000002.pt, ")
    done = command("--config", f"{tmp_path / 'run' / 'config.toml'}", "--resume")
    assert done.exit_code == 0, done.stderr


def test_bad_files_are_all_listed_before_anything_is_written(tmp_path) -> None:
    make_shapes(tmp_path / "shapes", 3, size=(160, 160))
    (tmp_path / "shapes/JPEGImages/000000.jpg").unlink()
    (tmp_path / "shapes/PseudoMasks/000001.png").write_bytes(b"")
    (tmp_path / "shapes/SegmentationClass/000002.png").unlink()
    paths = [f"dataset={tmp_path / 'shapes'}", f"output={tmp_path / 'run'}"]
    done = command("--config", "shapes", *paths)
    assert done.exit_code == 2
    assert done.stderr[done.stderr.index("Error") :].splitlines() == [
        "Error: 3 files cannot be used:",
        f"  {tmp_path}/shapes/JPEGImages/000000.jpg: missing",
        f"  {tmp_path}/shapes/PseudoMasks/000001.png: empty file",
        f"  {tmp_path}/shapes/SegmentationClass/000002.png: missing",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("dataset=nowhere", "dataset nowhere: no such folder"),
        ("dataset=", "dataset must be a folder in PASCAL VOC layout, got none: give dataset=FOLDER"),
        ("pseudo_masks=nowhere", "/nowhere nor nowhere exists"),
        ("train_split=trian", "no such split; splits of this dataset: all, train, val"),
        ("classes=none.txt", "/none.txt nor none.txt exists"),
        ("backbone_weights=none.pt", "none.pt"),
        ("tua=3", "no key tua; did you mean tau"),
    ],
)
def test_bad_configuration_is_one_clear_error(override: str, text: str, shapes: Path, tmp_path) -> None:
    done = command("--config", "shapes", *TINY, f"dataset={shapes}", f"output={tmp_path}", override)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert text in done.stderr


def test_tensorboard_scalars_are_written(shapes: Path, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tiny(shapes, tmp_path, "tensorboard=true", "iterations=2", "switch=1"))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {*events.Tags()["scalars"]} == {
        "train/loss", "train/penalty", "train/learning_rate", "train/images_per_second",
    }  # fmt: skip
    values = [event.value for event in events.Scalars("train/loss")]
    assert values == pytest.approx([row["loss"] for row in result.history], rel=1e-6)


def test_missing_tensorboard_is_told(shapes: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install fastia\[tensorboard\]"):
        train(tiny(shapes, tmp_path, "tensorboard=true"))
