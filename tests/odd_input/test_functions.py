"""Odd input to the public functions: a right answer or a ValueError, nothing from inside torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embae_plugin.data.batches import balanced_batches, identity_batches
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.shots import plan, scaled
from embae_plugin.data.image_bank import CorruptImageError, ImageBank
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation import evaluate_embeddings, evaluate_rank
from embae_plugin.losses import BatchHardTripletLoss, ReconstructionLoss
from embae_plugin.models.heads import HeadBank
from embae_plugin.settings.config import check_config, load_config

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16,
                          torch.int64, torch.int32, torch.bool])
ids = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**62), 2**62, 0, 1]))
words = st.text(max_size=8)


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    count = int(np.prod(shape))
    return (torch.arange(count).reshape(shape) * 7 % 5).to(dtype)


def scores_or_value_error(function, *arguments, **more):
    """The answer; None if the input was refused."""
    try:
        return function(*arguments, **more)
    except ValueError as error:
        assert str(error)
        return None


@few
@given(shapes, shapes, dtypes, dtypes, st.booleans())
def test_losses(left, right, kind, other, same):
    right = left if same else right
    x, y = tensor(left, kind), tensor(right, other)
    loss = scores_or_value_error(ReconstructionLoss(), x, y)
    if left == right and len(left) == 2 and 0 not in left:
        assert loss is not None and float(loss) >= 0
    triplet = scores_or_value_error(BatchHardTripletLoss(), x, y)
    if len(left) == 2 and right == left[:1]:
        assert triplet is not None and bool(torch.isfinite(triplet))


@few
@given(st.lists(ids, max_size=12), st.integers(-1, 3), st.integers(-1, 3), st.integers(-1, 4))
def test_identity_batches(pids, P, K, steps):
    records = torch.tensor(pids, dtype=torch.long)
    plan = scores_or_value_error(
        identity_batches, records, torch.zeros_like(records), P, K, steps, torch.Generator()
    )
    if plan is None:
        assert min(P, K, steps) < 1 or len(set(pids)) < P
    else:
        assert plan.shape == (steps, P * K)
        assert not plan.numel() or (int(plan.min()) >= 0 and int(plan.max()) < len(pids))


@few
@given(st.lists(ids, max_size=12), st.integers(-1, 3), st.integers(-1, 4))
def test_balanced_batches(groups, per_group, steps):
    numbers = torch.tensor(groups, dtype=torch.long)
    plan = scores_or_value_error(balanced_batches, numbers, per_group, steps, torch.Generator())
    if plan is None:
        dense = set(groups) == set(range(len(set(groups)))) and groups
        assert min(per_group, steps) < 1 or not dense
    else:
        assert plan.shape == (steps, len(set(groups)) * per_group)


@few
@given(st.lists(st.tuples(ids, ids), max_size=5), st.lists(st.tuples(ids, ids), max_size=6),
       dtypes, st.integers(0, 3))
def test_evaluation(query, gallery, kind, dim):
    q, g = tensor((len(query), dim), kind), tensor((len(gallery), dim), kind)
    columns = [[item[k] for item in side] for k in (0, 1) for side in (query, gallery)]
    scores = scores_or_value_error(evaluate_embeddings, q, g, *columns)
    possible = query and gallery and dim and kind != torch.bool
    assert (scores is not None) == bool(possible)
    if scores is not None:
        for one in scores.values():
            assert one.queries + one.dropped_queries == len(query)
            assert one.queries == 0 or 0 <= one.mAP <= 1
    distances = tensor((len(query), len(gallery)), kind)
    ranked = scores_or_value_error(evaluate_rank, distances, *columns)
    assert (ranked is not None) == bool(query and gallery and kind != torch.bool)


@pytest.mark.parametrize(
    "wrong", [[["a"], [0]], [[0.5], [0]], [[None], [0]], [[[0]], [0]], [[], [0]]]
)
def test_ids_that_are_none_are_refused(wrong):
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match="q_pids"):
        evaluate_embeddings(one, one, *wrong, [0], [1])


@few
@given(st.lists(st.integers(0, 2), max_size=8), st.booleans())
def test_head_bank(groups, train):
    bank = HeadBank(3, 4, 5, 2).train(train)
    h, group = torch.randn(len(groups), 4), torch.tensor(groups, dtype=torch.long)
    out = bank(h, group)
    assert out.shape == (len(groups), 2) and bool(torch.isfinite(out).all())


@pytest.mark.parametrize("group", [[3], [-1], [2**40]])
def test_heads_that_are_not_there_are_refused(group):
    with pytest.raises(ValueError):
        HeadBank(3, 4, 5, 2).eval()(torch.ones(1, 4), torch.tensor(group))


@few
@given(st.lists(st.tuples(words, ids, ids, ids), max_size=6))
def test_records(items):
    records = ImageRecords.from_items(items)
    columns = (records.paths, records.pids, records.camids, records.dsetids)
    assert list(zip(*columns, strict=True)) == [tuple(item) for item in items]
    assert len(records.fingerprint()) == 16
    for by in ("common", "dataset", "camera"):
        groups = records.groups(by)
        assert sorted(set(groups.tolist())) == list(range(len(set(groups.tolist()))))
    if items:
        with pytest.raises(CorruptImageError):
            ImageBank([name + "\0" for name in records.paths], 4, 4)


@few
@given(st.sampled_from(sorted(SPECS)), st.floats(allow_nan=True), st.integers(0, 2**31))
def test_synthetic_plans(name, scale, seed):
    smaller = scores_or_value_error(scaled, SPECS[name], scale if abs(scale) > 1 else scale / 50)
    if smaller is not None and scale < 1:
        assert len(plan(smaller, seed)) > 0


KEYS = ["train.lr", "train.batch_size", "embae.variants", "embae.z_id_dim", "data.height",
        "test.ranks", "embae.test.tta", "train", "", "nothing.at.all"]


@few
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(
    words, st.integers(-2, 9).map(str), st.sampled_from(["[]", "None", "nan", "1e999", "{}", "("]),
)), max_size=3))
def test_configuration(pairs):
    def both() -> None:
        check_config(load_config("", [text for pair in pairs for text in pair]))

    scores_or_value_error(both)


# --- file systems -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ä ö.jpg", "with space.jpg", "日本.jpg", "a'b\"c.jpg", "%s{}.jpg"]
)
def test_paths_of_all_kinds_are_read(tmp_path, name):
    from PIL import Image

    path = tmp_path / "ein Ordner é" / name
    path.parent.mkdir()
    Image.new("RGB", (4, 8), (200, 10, 10)).save(path)
    bank = ImageBank([str(path), str(path)], 8, 4, cache_dir=tmp_path / "ca che")
    assert bank.images.shape == (2, 8, 4, 3) and torch.equal(bank.images[0], bank.images[1])


def test_a_loop_of_links_in_a_data_set_ends(tmp_path):
    from embae_plugin.commands.main import main

    os.symlink(tmp_path, tmp_path / "market1501", target_is_directory=True)
    os.symlink(tmp_path / "viper", tmp_path / "viper")
    assert main(["data", "check", "market1501", "viper", "--root", str(tmp_path)]) in (1, 2)


@pytest.mark.parametrize("verb", [
    ["train", "--root", "\0"], ["train", "--config-file", "/"], ["train", "train.lr"],
    ["train", "--root", "nowhere", "loss.name", "embae", "model.name", "embae_mobilenetv1"],
    ["data", "check", "--root", "no where"], ["data", "check", "☃", "--root", "."],
    ["data", "get", "market1501", "--root", "x", "--url", "file:///nowhere"],
])
def test_commands_say_what_is_wrong(tmp_path, monkeypatch, capsys, verb):
    from embae_plugin.commands.main import main

    monkeypatch.chdir(tmp_path)
    assert main(verb) == 2
    error = capsys.readouterr().err
    assert error.startswith("embae") and "Traceback" not in error
    assert not list(Path(tmp_path).rglob("*.pth"))
