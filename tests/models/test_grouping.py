from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embae_plugin.models.grouping import tile_groups


def test_tiles_of_unequal_groups():
    group = torch.tensor([2, 0, 2, 2, 0])
    tiles = tile_groups(group, 5, may_split=False)
    assert tiles.group.tolist() == [0, 2]
    assert tiles.filled.tolist() == [2, 3]
    assert tiles.size == 3
    assert tiles.slot.tolist() == [3, 0, 4, 5, 1]
    assert not tiles.full and not tiles.identity


def test_where_most_groups_have_rows_the_others_get_empty_tiles():
    tiles = tile_groups(torch.tensor([2, 0, 2, 2, 0]), 4, may_split=False)
    assert tiles.group.tolist() == [0, 1, 2, 3]
    assert tiles.filled.tolist() == [2, 0, 3, 0]
    assert tiles.slot.tolist() == [6, 0, 7, 8, 1]
    assert tiles.identity and not tiles.full


def test_equal_groups_need_no_padding():
    tiles = tile_groups(torch.tensor([1, 0, 0, 1]), 2, may_split=False)
    assert tiles.full and tiles.identity
    assert tiles.scatter(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).tolist() == [
        [[2.0], [3.0]],
        [[1.0], [4.0]],
    ]


def test_a_dominating_group_is_split_where_that_is_allowed():
    group = torch.tensor([0] * 97 + [1, 2, 3])
    assert tile_groups(group, 4, may_split=False).size == 97
    tiles = tile_groups(group, 4, may_split=True)
    assert tiles.size == 25
    assert tiles.group.tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert tiles.filled.tolist() == [25, 25, 25, 22, 1, 1, 1]


def test_a_group_out_of_range_is_named():
    for bad in (-2, 4):
        with pytest.raises(ValueError, match=rf"0\.\.3 for 4 heads, found {bad}; number the cam"):
            tile_groups(torch.tensor([0, bad]), 4, may_split=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.booleans())
def test_every_row_has_a_slot_of_its_own_in_a_tile_of_its_group(groups, may_split):
    group = torch.tensor(groups)
    tiles = tile_groups(group, 6, may_split)
    assert len(set(tiles.slot.tolist())) == len(groups)
    tile = tiles.slot // tiles.size
    assert torch.equal(tiles.group[tile], group)
    assert bool((tiles.slot % tiles.size < tiles.filled[tile]).all())
    assert int(tiles.filled.sum()) == len(groups)
    rows = torch.arange(len(groups), dtype=torch.float32).unsqueeze(1) + 1
    scattered = tiles.scatter(rows)
    assert torch.equal(tiles.gather(scattered), rows)
    assert float(scattered.sum()) == float(rows.sum())
    assert tiles.full == (int(tiles.group.numel()) * tiles.size == len(groups))
    if may_split:
        # At most two slots for a row, and what rounding up the size adds.
        assert len(tiles.group) * tiles.size <= 2 * len(groups) + 2 * 6
    else:
        assert tiles.group.tolist() == (
            list(range(6)) if len(set(groups)) >= 3 else sorted(set(groups))
        )
