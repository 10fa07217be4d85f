"""What the processes of a run say to each other, and that one process needs no others."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from embae_plugin import distributed
from embae_plugin.data.batches import identity_batches
from tests.distributed.ranks import in_ranks

# --- what needs no second process -----------------------------------------------------------


def test_one_process_is_rank_zero_of_one_and_nothing_happens():
    model, loss = nn.Linear(2, 1), torch.tensor(3.0)
    assert (distributed.rank(), distributed.size()) == (0, 1)
    with distributed.processes(), distributed.rank_zero_first():
        assert distributed.average(model, loss) is loss
        assert distributed.any_rank(True) and not distributed.any_rank(False)
        assert distributed.shards(5, 2) == [(0, 5)]
        distributed.check_same("x", 1)
        distributed.copy_from_rank_zero(model)
        distributed.barrier()


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [("x", "2", "must be whole numbers"), ("2", "2", "RANK 2 with WORLD_SIZE 2"),
     ("-1", "2", "RANK -1")],
)
def test_a_wrong_environment_is_named(monkeypatch, rank, size, message):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=message), distributed.processes():
        pass


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 64, 129])
@pytest.mark.parametrize("block", [1, 4])
def test_shards_are_whole_blocks_in_order_and_even(monkeypatch, size, count, block):
    monkeypatch.setattr(distributed, "_size", size)
    parts = distributed.shards(count, block)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(count))
    assert len(parts) == size and all(start % block == 0 or start == count for start, _ in parts)
    blocks = [-(-(stop - start) // block) for start, stop in parts]
    assert max(blocks) - min(blocks) <= 1


# --- batches ----------------------------------------------------------------------------------


def plan(ranks: int, people: int, steps: int = 50, datasets: int = 2) -> torch.Tensor:
    """(steps, ranks, P, K) identities of a plan over ``people`` in each data set, P 3 and K 2."""
    pids = torch.arange(people * datasets).repeat_interleave(4)
    index = identity_batches(
        pids, pids // people, 3, 2, steps, torch.Generator().manual_seed(0), ranks=ranks
    )
    return pids[index].view(steps, ranks, 3, 2)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_gets_p_by_k_batches_of_one_data_set(ranks):
    people = plan(ranks, people=12)
    assert torch.equal(people[..., 0], people[..., 1])
    assert all(len(set(batch)) == 3 for step in people[..., 0].tolist() for batch in step)
    assert bool((people // 12 == people[:, :, :1, :1] // 12).all())
    drawn = (people[:, :, 0, 0] // 12).float().mean()
    assert 0.2 < drawn < 0.8


def test_no_identity_is_in_two_batches_of_a_step():
    for step in plan(4, people=12)[..., 0].tolist():
        everyone = [pid for batch in step for pid in batch]
        assert len(set(everyone)) == 12


def test_too_few_identities_are_shared_as_evenly_as_can_be():
    for step in plan(4, people=7, datasets=1)[..., 0].tolist():
        everyone = [pid for batch in step for pid in batch]
        assert sorted({everyone.count(pid) for pid in set(everyone)}) == [1, 2]
        assert len(set(everyone)) == 7


# --- several processes ------------------------------------------------------------------------


def talk() -> dict[str, object]:
    """Each function once, in three ranks."""
    rank = distributed.rank()
    model = nn.BatchNorm1d(2)
    with torch.no_grad():
        model.weight.fill_(rank)
        model.running_mean.fill_(10 * rank)
    distributed.copy_from_rank_zero(model)
    parts = distributed.shards(5, 2)
    start, stop = parts[rank]
    log: list[float] = []
    if rank == 0:
        time.sleep(0.1)
    with distributed.rank_zero_first():
        log.append(time.monotonic())
    try:
        distributed.check_same("the seed", 7 if rank == 2 else 1)
        different = ""
    except ValueError as error:
        different = str(error)
    distributed.check_same("the seed", {"a": 1})
    return {
        "any": [distributed.any_rank(rank == 2), distributed.any_rank(False)],
        "rows": distributed.gather_rows(torch.arange(start, stop)[:, None] * 10, parts).tolist(),
        "weights": [*model.weight.tolist(), *model.running_mean.tolist()],
        "when": log[0],
        "different": different,
    }


def test_three_ranks_agree():
    answers = in_ranks(3, talk)
    for answer in answers:
        assert answer["any"] == [True, False]
        assert answer["rows"] == [[0], [10], [20], [30], [40]]
        assert answer["weights"] == [0, 0, 0, 0]
        assert "the seed: 1 in rank 0, 7 in rank 2. All processes need" in answer["different"]
    assert answers[0]["when"] < min(answers[1]["when"], answers[2]["when"])


def leave_early() -> str:
    if distributed.rank() == 1:
        raise ValueError("an image is broken")
    distributed.barrier()
    return "went on"


def test_a_rank_that_fails_ends_the_others_with_a_reason():
    lost, failed = in_ranks(2, leave_early)
    assert isinstance(failed, ValueError) and "an image is broken" in str(failed)
    assert isinstance(lost, distributed.PeerLost) and isinstance(lost, OSError)
    assert "another process of this run has ended" in str(lost)
