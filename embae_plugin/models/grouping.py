"""Lays rows of unequal groups out in equal tiles, so that one batched product serves all groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """Where each row goes, in T tiles of ``size`` rows with one group each.

    Attributes:
        group: (T,) the group of each tile, ascending.
        filled: (T,) rows of each tile that are in use; they come first. A group without rows has
            one empty tile, or, where most groups are without, none.
        slot: (B,) place of each row among the T · size ones, all tiles after one another.
        size: rows of a tile.
        identity: the tiles are groups 0, 1, … in order, each with one tile.
    """

    group: torch.Tensor
    filled: torch.Tensor
    slot: torch.Tensor
    size: int
    identity: bool

    @property
    def full(self) -> bool:
        """No row of any tile is padding."""
        return len(self.slot) == len(self.group) * self.size

    def scatter(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, D) to (T, size, D), padded with zeros."""
        padded = rows.new_zeros(len(self.group) * self.size, rows.shape[1])
        padded = padded.index_copy(0, self.slot, rows)
        return padded.view(len(self.group), self.size, rows.shape[1])

    def gather(self, tiles: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`scatter`: (T, size, D) to (B, D)."""
        return tiles.flatten(0, 1).index_select(0, self.slot)


def tile_groups(group: torch.Tensor, num_groups: int, may_split: bool) -> Tiles:
    """Plans the tiles for B rows. Brings ``group`` to the host, once.

    Args:
        group: (B,) group of each row, 0 to ``num_groups`` − 1; B at least 1.
        num_groups: how many groups there may be.
        may_split: a large group may get several tiles, which bounds the padding to about B rows;
            without it each group is one tile, as batch statistics need.

    Raises:
        ValueError: a group out of range.
    """
    on_host = group.detach().cpu()
    lowest, highest = (int(edge) for edge in torch.aminmax(on_host))
    if lowest < 0 or highest >= num_groups:
        raise ValueError(
            f"group indices must lie in 0..{num_groups - 1} for {num_groups} heads, found "
            f"{lowest if lowest < 0 else highest}; number the cameras densely, and give the bank "
            "one head for each"
        )
    counts = torch.bincount(on_host, minlength=num_groups)
    present = counts.nonzero().flatten()
    if 2 * len(present) >= num_groups:
        # Computing some heads for nothing is cheaper than picking out the weights of the others.
        present = torch.arange(num_groups)
    counts = counts[present]
    size = int(counts.max())
    if may_split and len(present) * size > 2 * len(group):
        size = -(-len(group) // len(present))
    tiles = ((counts + size - 1) // size).clamp(min=1)
    first_tile = tiles.cumsum(0) - tiles

    order = torch.argsort(on_host, stable=True)
    within = torch.arange(len(group)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    slot = torch.empty_like(order)
    slot[order] = (first_tile * size).repeat_interleave(counts) + within

    tile_of_group = torch.arange(int(tiles.sum())) - first_tile.repeat_interleave(tiles)
    filled = (counts.repeat_interleave(tiles) - tile_of_group * size).clamp(max=size)
    tile_group = present.repeat_interleave(tiles)
    identity = len(tile_group) == len(present) == num_groups
    device = group.device
    return Tiles(tile_group.to(device), filled.to(device), slot.to(device), size, identity)
