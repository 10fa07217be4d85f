"""Between the states of separate dense heads and the stacked state of a bank of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

# A bank's entries, stacked over the heads, and those of one head. The weights of the linear
# layers are (in, out) in a bank and (out, in) in nn.Linear.
_LINEAR = {"fc1_weight": "fc1.weight", "fc2_weight": "fc2.weight"}
_OTHER = {
    "fc1_bias": "fc1.bias",
    "bn_weight": "bn.weight",
    "bn_bias": "bn.bias",
    "fc2_bias": "fc2.bias",
    "running_mean": "bn.running_mean",
    "running_var": "bn.running_var",
    "num_batches_tracked": "bn.num_batches_tracked",
}

State = dict[str, torch.Tensor]
Index = torch.Tensor | None
"""Which heads of a bank; None for all."""


def stacked(heads: Sequence[Mapping[str, torch.Tensor]]) -> State:
    """The state of a bank from those of its heads."""
    many = {entry: torch.stack([head[one] for head in heads]) for entry, one in _OTHER.items()}
    for entry, one in _LINEAR.items():
        many[entry] = torch.stack([head[one].T for head in heads])
    return many


def unstacked(bank: Mapping[str, torch.Tensor], index: int) -> State:
    """The state of head ``index`` of a bank."""
    head = {one: bank[entry][index] for entry, one in _OTHER.items()}
    head.update({one: bank[entry][index].T for entry, one in _LINEAR.items()})
    return head


def chosen(stack: torch.Tensor, index: Index) -> torch.Tensor:
    """The rows ``index`` of a stacked tensor; the tensor itself for None."""
    return stack if index is None else stack.index_select(0, index)
