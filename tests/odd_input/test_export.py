"""Exports of odd sizes, batches and names: the model's embeddings, or refused with nothing left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin.export import FORMATS, ImagesToEmbeddings, export_model
from embae_plugin.models.door import open_model
from tests.crops_world import write_checkpoint
from tests.odd_input.world import KINDS, snapshot, wrong_file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("m") / "adapted.pth")


@pytest.fixture(params=sorted(FORMATS))
def form(request):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
    return request.param


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 17), (50, 3)], ids=str)
def test_odd_sizes_and_batches(checkpoint, tmp_path, form, size):
    """Batches that were not traced with, an empty one among them; a folder of an odd name."""
    bundle = open_model(checkpoint, *size)
    path = tmp_path / "ein Ordner ä" / "日本 %s{}.bin"
    export_model(bundle, path, form)
    run, graph = FORMATS[form][1](path), ImagesToEmbeddings(bundle)
    for count in (0, 1, 7):
        images = np.random.default_rng(count).random((count, 3, *size), dtype=np.float32)
        with torch.inference_mode():
            wanted = graph(torch.from_numpy(images)).numpy()
        given = run(images, np.zeros(count, dtype=np.int64))
        np.testing.assert_allclose(given, wanted, atol=1e-4)
        assert given.shape == (count, 8)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["", "ONNX", "onnx ", "tflite", None, 3])
def test_unknown_formats(checkpoint, tmp_path, name):
    with pytest.raises(ValueError, match="must be one of onnx, torchscript"):
        export_model(open_model(checkpoint), tmp_path / "x", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "below a file", "nul"])
def test_places_that_cannot_be_written(checkpoint, tmp_path, form, kind):
    path = wrong_file(tmp_path, kind)
    before = snapshot(tmp_path)
    with pytest.raises((ValueError, OSError)):
        export_model(open_model(checkpoint), path, form)
    assert snapshot(tmp_path) == before


def test_a_failed_check_leaves_the_file_that_was_there(checkpoint, tmp_path, form):
    (tmp_path / "x").write_bytes(b"mine")

    def check(run):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        export_model(open_model(checkpoint), tmp_path / "x", form, check=check)
    assert snapshot(tmp_path) == {"x": b"mine"}


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_no_export(tmp_path, form, kind):
    path = wrong_file(tmp_path, kind)
    with pytest.raises((ValueError, OSError)) as error:
        FORMATS[form][1](path)
    assert str(error.value)
