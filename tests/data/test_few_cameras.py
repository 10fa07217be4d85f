"""Batches from few cameras each: promises, fair shares, a round by hand, few cameras as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embae_plugin.data.batches import identity_batches
from embae_plugin.data.few_cameras import _Cells, _Plan, camera_batches
from embae_plugin.lab.benchmark.many_cameras import draw_world, measure


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def worlds(draw, least: int, most: int):
    """Clusters of 1 to 9 crops over any of so many cameras, each of which has one at least."""
    cameras = draw(st.integers(least, most))
    seed = draw(st.integers(0, 2**16))
    random = np.random.default_rng(seed)
    size = random.integers(1, 10, draw(st.integers(3, 25)))
    labels = np.arange(len(size)).repeat(size)
    spread = random.integers(1, 6, len(size))  # of a cluster: cameras next to one another
    camids = (random.integers(0, cameras, len(size))[labels]
              + random.integers(0, spread[labels])) % cameras
    labels = np.concatenate([labels, random.integers(0, len(size), cameras)])
    return labels * 3, np.concatenate([camids, np.arange(cameras)]) * 2  # numbers have gaps


# --- up to 8 cameras ------------------------------------------------------------------------


@given(worlds(1, 8), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_up_to_eight_cameras_the_batches_are_bit_for_bit_those_of_identities(world, P, K):
    labels, cameras = world
    expected = identity_batches(labels, np.zeros_like(labels), P, K, 4, generator())
    assert torch.equal(camera_batches(labels, cameras, P, K, 4, generator()), expected)


@pytest.mark.parametrize(("cameras", "same"), [(9, True), (10, False)])
def test_a_batch_of_72_holds_nine_cameras_with_eight_rows_each(cameras, same):
    labels, camids = draw_world(cameras, 2000)
    expected = identity_batches(labels, np.zeros_like(labels), 18, 4, 4, generator())
    assert torch.equal(camera_batches(labels, camids, 18, 4, 4, generator()), expected) == same


# --- more -----------------------------------------------------------------------------------


@given(worlds(9, 20), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=120, deadline=None)
def test_promises(world, P, K, steps):
    labels, cameras = world
    batches = camera_batches(labels, cameras, P, K, steps, generator())
    assert batches.shape == (steps, P * K) and batches.dtype == torch.int64
    assert torch.equal(batches, camera_batches(labels, cameras, P, K, steps, generator()))
    for batch in batches.view(steps, P, K).numpy():
        assert (labels[batch] == labels[batch[:, :1]]).all()
        assert len(np.unique(labels[batch])) == P
        here = np.unique(cameras[batch])
        for crops in batch:
            of_cluster = labels == labels[crops[0]]
            assert len(np.unique(cameras[crops])) >= min(2, K, len(np.unique(cameras[of_cluster])))
            # A crop comes again only where the batch has all of its cluster from its camera.
            for camera in np.unique(cameras[crops]):
                drawn = crops[cameras[crops] == camera]
                there = np.sum(of_cluster & (cameras == camera))
                assert len(np.unique(drawn)) == min(len(drawn), there)
            if len(np.unique(crops)) < K:
                assert set(np.flatnonzero(of_cluster & np.isin(cameras, here))) == set(crops)
    # The crops of a cluster by one camera take turns.
    draws = np.bincount(batches.flatten(), minlength=len(labels))
    for cell in np.unique(np.stack([labels, cameras], 1), axis=0):
        times = draws[(labels == cell[0]) & (cameras == cell[1])]
        assert times.max() - times.min() <= 1


def test_a_round_by_hand():
    # Five pairs of cameras; two clusters live in each pair, with two crops in either camera. With
    # P = 2 and K = 4 a batch keeps to two cameras of four rows: one pair, all of its eight crops.
    pair = np.arange(5).repeat(8)
    labels = 2 * pair + np.tile([0, 0, 0, 0, 1, 1, 1, 1], 5)
    cameras = 2 * pair + np.tile([0, 0, 1, 1], 10)
    batches = camera_batches(labels, cameras, 2, 4, 15, generator())
    for batch in batches:
        assert len(np.unique(pair[batch])) == 1 and len(np.unique(batch)) == 8
    for five in batches.view(3, 40):  # and every pair has its turn before one has its next
        assert sorted(five.tolist()) == list(range(40))
    orders = {tuple(pair[camera_batches(labels, cameras, 2, 4, 5, generator(seed))[:, 0]])
              for seed in range(20)}
    assert len(orders) > 10


def test_a_cluster_of_three_cameras_gives_what_is_owed_and_meets_two_by_hand():
    # One cluster of 6, 1 and 1 crops in cameras 0 to 2, of which the batch has 0 and 1.
    plan = _Plan(np.array([[6, 1, 1]]), P=1, K=4)
    here, one = np.array([True, True, False]), np.zeros(1, dtype=np.int64)
    assert plan._shares(one, np.array([[3.0, 0.5, 9.0]]), here).tolist() == [[3, 1, 0]]
    # The last of K is of another camera, whatever is owed ...
    assert plan._shares(one, np.array([[8.0, 0.5, 9.0]]), here).tolist() == [[3, 1, 0]]
    # ... the single crop of camera 1 is not drawn twice while camera 0 has others ...
    assert plan._shares(one, np.array([[0.1, 8.0, 9.0]]), here).tolist() == [[3, 1, 0]]
    # ... and is where that is all there is.
    alone = np.array([False, True, False])
    assert plan._shares(one, np.array([[3.0, 0.5, 9.0]]), alone).tolist() == [[0, 4, 0]]


def test_crops_of_a_cell_take_turns_by_hand():
    # Cluster 0 has crops 0, 1, 2 by camera 0; cluster 1 has crop 3 by camera 0, crop 4 by camera 1.
    cells = _Cells(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1]), generator())
    assert cells.count.tolist() == [[3, 0], [1, 1]]
    first = cells.take(np.array([1, 0]), np.array([[1, 1], [2, 0]]))
    assert first[:2].tolist() == [3, 4] and len({0, 1, 2} & set(first[2:])) == 2
    rest = cells.take(np.array([0, 1]), np.array([[2, 0], [2, 1]]))
    assert rest[0] == ({0, 1, 2} - set(first[2:])).pop() and rest[1] == first[2]
    assert rest[2:].tolist() == [3, 3, 4]


def test_a_weak_camera_is_left_out_unless_it_leads():
    # Ten clusters by cameras 0 and 1; camera 2 has seen one of them, once, and is owed most.
    # The camera that leads is owed one more by each cluster, so it gives three crops of four.
    count = np.array([[3, 3, 0]] * 9 + [[3, 3, 1]])
    owed = np.where(count > 0, 1.0, 0.0)
    owed[9, 2] = 50.0
    plan = _Plan(count, P=4, K=4)
    assert plan._cameras(owed, 0).all()
    assert plan.batch(owed, first=0)[1].sum(0).tolist() == [12, 4, 0] and not plan.rare.any()
    clusters, shares = plan.batch(owed, first=2)
    assert 9 in clusters and shares.sum(0)[2] == 1 and plan.rare.tolist() == [False, False, True]
    assert plan.batch(owed, first=0)[1].sum(0)[2] == 1  # from then on it comes with few


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("cameras", [15, 30, 60])
def test_every_camera_in_a_batch_has_rows_enough_and_everything_has_its_turn(cameras, near):
    labels, camids = draw_world(cameras, 7000, near, seed=2)
    plain = measure(identity_batches(labels, np.zeros_like(labels), 18, 4, 97, generator()),
                    labels, camids)
    found = measure(camera_batches(labels, camids, 18, 4, 97, generator()), labels, camids)
    assert plain["few"] > 0.1 and found["few"] < 0.01
    assert found["across"] > 0.999 > plain["across"]
    assert found["repeated"] < 0.05
    assert found["never"] < 0.25 < plain["never"]
    assert found["clusters never"] == 0 and found["uneven"] < 0.7 < plain["uneven"]
    assert found["least camera"] > 0.7


def test_a_camera_of_two_crops_has_its_turn():
    labels, camids = draw_world(15, 3000)
    labels, camids = np.append(labels, labels[:2]), np.append(camids, [15, 15])
    batches = camera_batches(labels, camids, 18, 4, 41, generator())
    assert 1 <= np.sum(camids[batches] == 15) <= 8


def test_impossible_requests_are_refused():
    labels, camids = np.arange(20) // 2, np.arange(20)
    with pytest.raises(ValueError, match="P = 11 identities of one dataset"):
        camera_batches(labels, camids, 11, 2, 1, generator())
    with pytest.raises(ValueError, match="0 steps"):
        camera_batches(labels, camids, 2, 2, 0, generator())
    with pytest.raises(ValueError, match="20 crops' clusters, but 19 crops' cameras"):
        camera_batches(labels, camids[1:], 2, 2, 1, generator())
    with pytest.raises(ValueError, match="N > 0"):
        camera_batches(labels[:0], camids[:0], 2, 2, 1, generator())
