"""`embae adapt`: results whole or absent, resumed, and mistakes in words that help."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embae_plugin import ReID
from embae_plugin.commands import adapt as command
from embae_plugin.commands.job_folder import WORK
from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.methods.transfer import ImageTransferEngine
from embae_plugin.models import bundle as bundles
from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.camera_norm import of_camera
from embae_plugin.models.door import open_model
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from tests.crops_world import INPUT, followed, picture, write_checkpoint, write_crops
from tests.methods.tiny import same_weights


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint, and 4 people on 2 cameras in 4 shots each, in mixed sizes and formats."""
    root = tmp_path_factory.mktemp("adapt")
    paths = write_crops(root / "crops", each=3)
    for path in paths[::5]:
        Image.open(path).resize((23, 61)).save(path.with_suffix(".JPG"))
        path.unlink()
    picture(1, 1, 9).save(root / "crops" / "cam_b" / "größe 1.webp")
    write_checkpoint(root / "source.pth", seed=1)
    lines = [
        f"{path.relative_to(root).as_posix()},{path.parent.name},{path.name[:4]}"
        for path in sorted((root / "crops").rglob("0*"))
    ]
    lines.append("crops/cam_b/größe 1.webp,cam_b,")
    (root / "crops.csv").write_text("path,camid,pid\n" + "\n".join(lines) + "\n", "utf-8")
    return root


@pytest.fixture
def world(base, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the current folder."""
    plain = "embae_plugin.data.feature_bank.freeze"  # tracing takes longer than these
    monkeypatch.setattr(
        plain, lambda trunk, size, device, camera: of_camera(trunk, camera).to(device).eval()
    )
    shutil.copytree(base, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


FEW_EPOCHS = [
    "embae.adapt.method", "reconstruction",
    "embae.transfer.nuisance_epoch", "1", "embae.transfer.max_epoch", "2",
]  # fmt: skip


def adapt(
    *more: str, images: str = "crops", out: str = "out", checkpoint: str = "source.pth"
) -> int:
    where = ["--images", images] if images else []
    return main(["adapt", *where, "--checkpoint", checkpoint, "--out", out, *more, *FEW_EPOCHS])


RESULTS = {"adapted.pth", "adapt.log", "summary.txt", "summary.json", "before.npz", "after.npz"}


def test_what_it_leaves(world, caplog, monkeypatch):
    monkeypatch.setattr(command, "seconds_ahead", lambda *_: 5400.0)
    assert adapt() == 0
    assert "about 1:30 (hours:minutes) for reconstruction of 25 crops" in caplog.text
    assert set(os.listdir("out")) == RESULTS
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["cameras"] == {"cam_a": 12, "cam_b": 13} and summary["images"] == 25
    assert summary["scores"] == [] and summary["change"]["queries"] == 25
    words = Path("out/summary.txt").read_text()
    assert "How sure is it that the model is better? Not sure" in words
    assert words.strip() in caplog.text
    assert "cam_a  " in caplog.text and "2 camera(s) with fewer than 50 images" in caplog.text
    bundle = open_model("out")
    assert bundle.camera_names == () and bundle.input == INPUT, "it has no statistics by camera"
    assert bundle.about["cameras"] == {"cam_a": 12, "cam_b": 13}
    assert not same_weights(bundle.model.f_emb, open_model("source.pth").model.f_emb)
    before, after = read_embeddings("out/before.npz"), read_embeddings("out/after.npz")
    paths = [str(after.file(row)) for row in range(len(after))]
    for table, model in ((before, "source.pth"), (after, "out")):
        z = ReID.load(model, "cpu").embed(paths)
        np.testing.assert_allclose(table.embeddings, z, atol=1e-4)
    assert before.about["model"] != after.about["model"] and before.pids is None


def test_identities_are_for_scoring_alone(world, caplog):
    assert adapt("--csv", "crops.csv", images="", out="one") == 0
    summary = json.loads(Path("one/summary.json").read_text())
    assert [row["variant"] for row in summary["scores"]] == ["baseline", "adapted"]
    assert summary["scores"][0]["queries"] == 24, "the crop without identity is no query"
    assert "Rank-1-nd" in caplog.text and "Not sure" not in caplog.text
    lines = Path("crops.csv").read_text().splitlines()
    wrong = [line.rsplit(",", 1)[0] + f",{n % 3}" for n, line in enumerate(lines[1:])]
    Path("crops.csv").write_text("\n".join([lines[0], *wrong]) + "\n")
    assert adapt("--csv", "crops.csv", images="", out="two") == 0
    assert same_weights(open_model("one").model, open_model("two").model)


@pytest.mark.parametrize("marked", [False, True])
def test_scores_are_leave_one_out_by_hand(world, marked):
    """Each crop's nearest of another camera, found by hand, is of the same person or not.

    Crops of "-1" are in no ranking, and those of "0" are wrong answers only, as in embae evaluate.
    """
    if marked:
        lines = Path("crops.csv").read_text("utf-8").splitlines()
        for row, pid in ((3, "-1"), (8, "0"), (15, "0")):
            lines[row] = f"{lines[row].rpartition(',')[0]},{pid}"
        Path("crops.csv").write_text("\n".join(lines), "utf-8")
    assert adapt("--csv", "crops.csv", images="") == 0
    table = read_embeddings("out/after.npz")
    known = ~np.isin(table.pids, ["", "-1"])
    z, pids, cameras = table.embeddings[known], table.pids[known], table.cameras[known]
    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    distance[cameras[:, None] == cameras[None]] = np.inf
    hits = (pids[distance.argmin(1)] == pids)[pids != "0"]
    row = json.loads(Path("out/summary.json").read_text())["scores"][1]
    assert row["queries"] == len(hits) == (21 if marked else 24)
    assert row["rank1_nd"] == pytest.approx(hits.mean())


def test_unusable_crops_are_listed_and_left_out(world, caplog):
    bad = world / "crops" / "cam_a" / "bad file.jpg"
    bad.write_bytes(b"nothing")
    Image.new("RGB", (1, 1)).save(world / "crops" / "cam_b" / "dot.png")
    assert adapt("--max-bad", "0.08") == 0
    lines = Path("out/skipped.txt").read_text().splitlines()
    assert lines == [
        "crops/cam_a/bad file.jpg\tnot an image, or an empty file",
        "crops/cam_b/dot.png\t1 x 1 pixels: fewer than 8 on a side",
    ]
    assert "2 image(s) cannot be used" in caplog.text
    assert json.loads(Path("out/summary.json").read_text())["images"] == 25


@pytest.mark.parametrize("when", ["in a step", "before the end"])
def test_an_interrupted_run_goes_on(world, monkeypatch, capsys, when):
    (world / "crops" / "cam_a" / "bad.jpg").write_bytes(b"nothing")
    assert adapt(out="whole") == 0
    if when == "in a step":
        step = ImageTransferEngine.phases

        def phases(engine, max_epoch):
            found = step(engine, max_epoch)
            true_step = found[1].step

            def stopped(epoch, number):
                if epoch == 1:
                    os.kill(os.getpid(), 2)
                return true_step(epoch, number)

            found[1].step = stopped
            return found

        target, name, replacement = ImageTransferEngine, "phases", phases
    else:
        def fails(*_):
            raise KeyboardInterrupt

        target, name, replacement = command, "save_bundle", fails
    with monkeypatch.context() as patch:
        patch.setattr(target, name, replacement)
        assert adapt() == 130
    assert (world / "out" / WORK).is_dir() and not (world / "out" / "adapted.pth").exists()
    with pytest.raises(FileNotFoundError):
        open_model("out")
    assert adapt("--seed", "2") == 2
    assert "unfinished run with other settings:\n  seed: 1 then, 2 now" in capsys.readouterr().err
    assert adapt() == 0
    assert set(os.listdir("out")) == {*RESULTS, "skipped.txt"}
    assert same_weights(open_model("out").model, open_model("whole").model)


def test_nothing_is_overwritten_unasked(world, capsys):
    assert adapt() == 0
    before = Path("out/adapted.pth").read_bytes()
    assert adapt("--seed", "2") == 2
    assert "out holds the results of a finished run" in capsys.readouterr().err
    assert Path("out/adapted.pth").read_bytes() == before
    Path("out/mine.txt").write_text("keep")
    assert adapt("--force", "--seed", "2") == 0
    assert Path("out/adapted.pth").read_bytes() != before
    assert Path("out/mine.txt").read_text() == "keep"
    Path("other").mkdir()
    Path("other/mine.txt").write_text("keep")
    assert adapt(out="other") == 2
    assert "other holds other files" in capsys.readouterr().err
    assert adapt(out="crops.csv") == 2
    assert "crops.csv is a file" in capsys.readouterr().err


def test_an_adapted_model_is_adapted_again(world):
    assert adapt(out="one") == 0 and adapt(checkpoint="one", out="two") == 0
    about = open_model("two").about
    assert about["checkpoint"] == "one" and about["cameras"] == {"cam_a": 12, "cam_b": 13}


def test_one_camera(world, caplog):
    assert adapt(images="crops/cam_a", out="none") == 2, "no folder identifies the camera"
    shutil.rmtree("crops/cam_b")
    assert adapt() == 0
    assert "all images are of one camera" in caplog.text
    assert "nothing can be said across cameras" in Path("out/summary.txt").read_text()


def _pooled(path: Path) -> None:
    save_bundle(path, Bundle(EmbAE.of_trunk(build_trunk("mobilenetv1_x0_25")), INPUT))


def _of_another_trunk(path: Path) -> None:
    payload = bundles.load_checkpoint("source.pth")
    payload["spec"] = {**payload["spec"], "trunk": "mobilenetv1_x0_5"}
    bundles.save_checkpoint(path, payload)


def _torchreid(path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}, "epoch": 3}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_pooled, "has no embedding layer behind its pooled features"),
        (_of_another_trunk, "its weights are not those of its model"),
        (_torchreid, "not the weights of a network of torch"),
        (lambda path: path.write_text("hello"), "no checkpoint"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_checkpoint_that_cannot_serve(world, capsys, make, message):
    make(world / "c.pth")
    assert adapt(checkpoint="c.pth") == 2
    assert message in capsys.readouterr().err and not os.path.exists("out")


def _empty(world: Path) -> None:
    shutil.rmtree(world / "crops")
    (world / "crops").mkdir()


def _flat(world: Path) -> None:
    for path in list((world / "crops").rglob("*.*")):
        path.rename(world / "crops" / f"{path.parent.name}_{path.name}")


def _bad(world: Path) -> None:
    for path in list((world / "crops").rglob("*.*"))[:4]:
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "flags", "message"),
    [
        (_empty, (), "there are no images in crops"),
        (_flat, (), "all images lie directly in crops"),
        (_flat, ("--camera-regex", r"kam(?P<camera>\d)"), "fits none of the 25 images"),
        (_bad, (), "4 of 25 images cannot be used"),
        (_bad, ("--max-bad", "2"), "--max-bad 2.0: a share"),
        (_bad, ("embae.transfer.epochs", "3"), "embae.transfer.epochs"),
    ],
)
def test_a_mistake_leaves_nothing(world, capsys, spoil, flags, message):
    spoil(world)
    assert adapt(*flags) == 2
    assert message in capsys.readouterr().err and not os.path.exists("out")


@pytest.mark.parametrize("name", ["write_embeddings", "save_bundle"])
def test_a_full_disk(world, monkeypatch, capsys, name):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(command, name, full)
        assert adapt() == 2
    assert "is full" in (said := capsys.readouterr().err) and "the same command resumes" in said
    assert not (world / "out" / "adapted.pth").exists()
    assert adapt() == 0 and set(os.listdir("out")) == RESULTS


def test_files_that_may_not_be_read(world, monkeypatch, capsys):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(bundles.torch, "load", refused)
        assert adapt() == 2
    assert "no permission to read the checkpoint source.pth" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("embae_plugin.data.image_bank.Image.open", refused)
        assert adapt() == 2
    assert "cam_a/0000_1.png: no permission to read it" in capsys.readouterr().err
    assert not os.path.exists("out")


FEW_ROUNDS = [
    "embae.adapt.flip_fall", "2",  # statistics of random weights suit nothing
    # torch's bfloat16 gradients of so narrow images can be anything on a processor
    "embae.embedding.precision", "float32",
    "embae.adapt.largest_cluster", "1",  # of few people each has many of the crops
    "embae.clusters.min_samples", "2", "embae.clusters.k1", "3", "embae.clusters.eps", "0.55",
    "embae.clusters.batch_size", "8", "embae.clusters.num_instances", "2",
    "embae.clusters.rounds", "1", "embae.clusters.trunk_rounds", "2",
]  # fmt: skip
COMMAND = ["adapt", "--images", "crops", "--checkpoint", "source.pth", "--out", "out"]


@pytest.mark.parametrize("method", ["norm", "heads", "trunk"])
def test_the_recommended_methods(world, method):
    eps = ["embae.clusters.eps", "0.4"] if method == "heads" else []
    options = followed(method, *FEW_ROUNDS, *eps)
    assert main([*COMMAND, "embae.adapt.method", method, *options]) == 0
    bundle, table = open_model("out"), read_embeddings("out/after.npz")
    model = bundle.model
    assert (model.camera_parts, model.cameras) == ("trunk", 2)
    paths = [f"crops/{name}" for name in table.paths]
    z = ReID(bundle, "cpu").embed(paths, cameras=table.cameras.tolist())
    np.testing.assert_allclose(table.embeddings, z, atol=1e-4)
    guessed = ReID(bundle, "cpu").embed(paths)
    assert (np.abs(guessed - z).max(1) < 1e-4).mean() > 0.5, "most look like their own camera"
    bundle.model.guess = None
    unseen = ReID(bundle, "cpu").embed(paths)
    assert np.abs(unseen - z).max() > 1e-3, "a camera never seen has statistics of its own"
    h = model.trunk.feature_dim
    assert z.shape[1] == {"norm": h, "heads": h + model.z_id_dim, "trunk": h}[method]
    source = open_model("source.pth").model
    learned = {
        part: not all(
            torch.equal(a, b)
            for a, b in zip(
                getattr(source, part).parameters(), getattr(model, part).parameters(), strict=True
            )
        )
        for part in ("trunk", "f_emb", "f_dec")
    }
    assert learned == {"trunk": method == "trunk", "f_emb": method == "heads", "f_dec": False}
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["change"]["mean_cosine"] is None
    assert ("pseudo-labels" in summary["method"]["method"]) == (method != "norm")


def test_pseudo_labels_are_left_out_where_clusters_are_no_people(world, caplog):
    assert main([*COMMAND, *FEW_ROUNDS, "embae.adapt.largest_cluster", "0.01"]) == 0
    text = Path("out/summary.txt").read_text().replace("\n", " ")
    assert "Pseudo-labels were left out" in text and "more than one person's" in text
    assert open_model("out").model.output == "h"


def test_no_epochs_at_all_leave_the_model_as_it_was(world):
    none = ["embae.transfer.max_epoch", "0", "embae.adapt.variant", "fix"]
    assert main([*COMMAND, *FEW_EPOCHS, *none]) == 0
    before, after = (open_model(path).model.state_dict() for path in ("source.pth", "out"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_without_an_autoencoder_learns_one_on_the_crops(world):
    payload = bundles.load_checkpoint("source.pth")
    bundles.save_checkpoint("one.pth", {**payload, "stage": "embedding", "about": {}})
    assert adapt("embae.autoencoder.max_epoch", "1", checkpoint="one.pth") == 0
    assert "an autoencoder learned on the crops" in json.loads(
        Path("out/summary.json").read_text()
    )["method"]["method"]
    source, model = (open_model(path).model for path in ("one.pth", "out"))
    assert not same_weights(source.f_dec, model.f_dec)
    assert not same_weights(source.f_emb, model.f_emb)


def test_an_adapted_model_is_not_adapted_again(world, capsys):
    assert main([*COMMAND, "embae.adapt.method", "norm", "embae.adapt.flip_fall", "2"]) == 0
    again = ["--images", "crops", "--checkpoint", "out", "--out", "again"]
    assert main(["adapt", *again]) == 2
    assert "has been adapted to cameras already" in capsys.readouterr().err
