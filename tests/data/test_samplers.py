from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data import batches
from embae_plugin.data.batches import balanced_batches, identity_batches
from embae_plugin.data.samplers import CameraBalancedSampler, RandomDatasetIdentitySampler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def items_of(sizes_per_dataset: list[list[int]]) -> list[tuple[str, int, int, int]]:
    """Items of datasets given by the number of images of each of their identities."""
    items = [
        (f"d{d}p{p}i{i}", p, i % 2, d)
        for d, sizes in enumerate(sizes_per_dataset)
        for p, size in enumerate(sizes)
        for i in range(size)
    ]
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))]


def labels_of(items: list[tuple[str, int, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([item[1] for item in items]), torch.tensor([item[3] for item in items])


datasets = st.lists(st.lists(st.integers(1, 7), min_size=3, max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize("tickets", [1, 100])
def test_an_epoch_drawn_in_parts_is_the_epoch_drawn_at_once(monkeypatch, tickets):
    pids = torch.arange(300) // 4
    once = identity_batches(pids, pids // 40, 3, 2, 50, generator())
    monkeypatch.setattr(batches, "_TICKETS", tickets)
    assert torch.equal(once, identity_batches(pids, pids // 40, 3, 2, 50, generator()))


@given(datasets, st.integers(1, 3), st.integers(1, 4), st.sampled_from(["proportional", "uniform"]))
@settings(max_examples=60, deadline=None)
def test_identity_batches_keep_their_promises(sizes, P, K, choose):
    items = items_of(sizes)
    batches = identity_batches(*labels_of(items), P, K, 5, generator(), choose)
    assert batches.shape == (5, P * K)
    for batch in batches.view(5, P, K):
        people = [{(items[i][3], items[i][1]) for i in images.tolist()} for images in batch]
        assert all(len(person) == 1 for person in people)
        assert len(set.union(*people)) == P
        assert len({dataset for person in people for dataset, _ in person}) == 1
        for images in batch:
            _, pid, _, dataset = items[images[0]]
            if sizes[dataset][pid] >= K:
                assert len(images.unique()) == K


def test_each_dataset_comes_in_proportion_to_its_images():
    items = items_of([[4] * 30, [4] * 10])
    pids, dsetids = labels_of(items)
    steps = 4000
    first = identity_batches(pids, dsetids, 2, 2, steps, generator())[:, 0]
    share = dsetids[first].float().mean().item()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / steps) ** 0.5)
    first = identity_batches(pids, dsetids, 2, 2, steps, generator(), choose="uniform")[:, 0]
    assert dsetids[first].float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / steps**0.5)


def test_identities_and_images_come_equally_often():
    # Identity 0 has 5 images, identities 1 to 4 have 3; P = 2 of 5, K = 2.
    items = items_of([[5, 3, 3, 3, 3]])
    steps = 5000
    batches = identity_batches(*labels_of(items), 2, 2, steps, generator())
    images = Counter(batches.flatten().tolist())
    for i, (_, pid, _, _) in enumerate(items):
        expected = steps * 2 / 5 * 2 / (5 if pid == 0 else 3)
        assert images[i] == pytest.approx(expected, abs=5 * expected**0.5)


def test_every_set_of_k_images_is_equally_likely():
    pids = torch.zeros(4, dtype=torch.long)
    pairs = identity_batches(pids, pids, 1, 2, 6000, generator()).sort(dim=1).values
    counts = Counter(map(tuple, pairs.tolist()))
    assert len(counts) == 6
    # Chi square with 5 degrees of freedom: above 20.5 with probability 0.001.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_identity_with_too_few_images_is_drawn_with_replacement():
    batch = identity_batches(torch.tensor([0, 1, 1]), torch.zeros(3), 2, 4, 50, generator())
    assert all(row.count(0) == 4 for row in batch.tolist())
    assert {len(set(row)) for row in batch.tolist()} == {2, 3}


def test_the_same_pid_in_two_datasets_is_two_people():
    pids, dsetids = torch.tensor([5, 5, 5, 5]), torch.tensor([0, 0, 9, 9])
    for row in identity_batches(pids, dsetids, 1, 2, 20, generator()).tolist():
        assert set(row) in ({0, 1}, {2, 3})


def test_dataset_with_too_few_identities_is_named():
    items = items_of([[4] * 20, [4] * 5, [4] * 17])
    expected = "P = 18 identities of one dataset, but dataset 1 has 5, dataset 2 has 17"
    with pytest.raises(ValueError, match=expected):
        RandomDatasetIdentitySampler(items, batch_size=72, num_instances=4)


def test_unknown_choice_and_bad_shapes():
    zero = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="choose must be 'proportional' or 'uniform', not 'all'"):
        identity_batches(zero, zero, 1, 2, 1, generator(), choose="all")
    with pytest.raises(ValueError, match=r"got \(4,\) and \(3,\)"):
        identity_batches(zero, zero[:3], 1, 2, 1, generator())
    with pytest.raises(ValueError, match="N > 0"):
        identity_batches(zero[:0], zero[:0], 1, 2, 1, generator())


@pytest.mark.parametrize("make", [RandomDatasetIdentitySampler, CameraBalancedSampler])
@pytest.mark.parametrize(("images_each", "length"), [(4, 24), (5, 24), (1, 8)])
def test_length_is_exact(make, images_each, length):
    # 6 identities: 24, 30 or 6 images in batches of 8; never fewer than one batch.
    sampler = make(items_of([[images_each] * 6]), 8, 4, seed=1)
    assert len(sampler) == len(list(sampler)) == length


@pytest.mark.parametrize("make", [RandomDatasetIdentitySampler, CameraBalancedSampler])
def test_epochs_differ_and_repeat_with_the_seed(make):
    items = items_of([[4] * 12])
    sampler, twin, other = (make(items, 16, 4, seed=seed) for seed in (3, 3, 4))
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [list(twin) for _ in range(3)] == epochs
    assert list(other) != epochs[0]
    twin.set_epoch(1)
    assert [list(twin), list(twin)] == epochs[1:]


def test_seed_of_torch_is_the_default_and_is_not_consumed():
    items = items_of([[4] * 12])
    bridge.set_random_seed(5)
    state = torch.get_rng_state()
    first = list(RandomDatasetIdentitySampler(items, 16, 4))
    assert torch.equal(torch.get_rng_state(), state)
    bridge.set_random_seed(6)
    assert list(RandomDatasetIdentitySampler(items, 16, 4)) != first
    assert list(RandomDatasetIdentitySampler(items, 16, 4, seed=5)) == first


@pytest.mark.parametrize(
    ("batch_size", "num_instances", "message"),
    [(10, 4, "not a multiple of num_instances .*; 8 or 12 would be"),
     (3, 4, "; 4 would be"), (8, 0, "must be at least 1")],
)  # fmt: skip
def test_k_must_divide_the_batch(batch_size, num_instances, message):
    with pytest.raises(ValueError, match=message):
        RandomDatasetIdentitySampler(items_of([[4] * 9]), batch_size, num_instances)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_balanced_batches_keep_their_promises(raw, per_group, steps):
    groups = torch.tensor(raw).unique(return_inverse=True)[1]
    num_groups = int(groups.max()) + 1
    batches = balanced_batches(groups, per_group, steps, generator())
    assert batches.shape == (steps, num_groups * per_group)
    expected = torch.arange(num_groups).repeat_interleave(per_group).expand(steps, -1)
    assert torch.equal(groups[batches], expected)
    for group in range(num_groups):
        drawn = batches[groups[batches] == group]
        times = torch.bincount(drawn, minlength=len(groups))[groups == group]
        assert times.max() - times.min() <= 1


def test_balanced_batches_shuffle_each_round():
    rows = balanced_batches(torch.zeros(5, dtype=torch.long), 5, 200, generator())
    assert all(sorted(row) == list(range(5)) for row in rows.tolist())
    # 120 orders, 200 draws: about 97 different ones.
    assert len(set(map(tuple, rows.tolist()))) > 75


def test_groups_without_images():
    with pytest.raises(ValueError, match=r"0 to G - 1, each with images, got .*\[0, 2\]"):
        balanced_batches(torch.tensor([0, 2]), 1, 1, generator())
    with pytest.raises(ValueError, match="0 to G - 1"):
        balanced_batches(torch.zeros(0, dtype=torch.long), 1, 1, generator())


def test_camera_sampler_separates_cameras_of_datasets():
    items = [(f"{i}", 0, i % 2, i % 3) for i in range(60)]  # 2 cameras in each of 3 datasets
    sampler = CameraBalancedSampler(items, batch_size=12, seed=0)
    for batch in np.array(list(sampler)).reshape(-1, 12).tolist():
        cameras = [(items[i][3], items[i][2]) for i in batch]
        assert cameras == [(d, c) for d in range(3) for c in range(2) for _ in range(2)]


def test_camera_sampler_needs_a_fitting_batch():
    items = [(f"{i}", 0, i % 6, 0) for i in range(60)]
    expected = r"not a multiple of the number of cameras \(6\); 60 or 66 would be"
    with pytest.raises(ValueError, match=expected):
        CameraBalancedSampler(items, batch_size=64)


@pytest.mark.parametrize("make", [RandomDatasetIdentitySampler, CameraBalancedSampler])
def test_empty_source(make):
    with pytest.raises(ValueError, match="no images"):
        make([], 8)


def test_torchreid_builds_them_by_name(market_root):
    options = {"root": str(market_root), "height": 16, "width": 8, "workers": 0, "use_gpu": False}
    manager = bridge.build_datamanager(
        sources="market1501", train_sampler="RandomDatasetIdentitySampler",
        batch_size_train=4, num_instances=2, **options,
    )  # fmt: skip
    batches = [batch["pid"].view(2, 2) for batch in manager.train_loader]
    assert len(batches) == len(manager.train_loader) == 4
    assert all(len(pids.unique()) == 2 and (pids[:, 0] == pids[:, 1]).all() for pids in batches)
    manager = bridge.build_datamanager(
        sources="market1501", train_sampler="CameraBalancedSampler", batch_size_train=4, **options
    )
    assert [batch["camid"].tolist() for batch in manager.train_loader] == [[0, 0, 1, 1]] * 4
