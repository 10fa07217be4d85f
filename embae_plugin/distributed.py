"""One run in several processes, started by ``torchrun``: one rank for each GPU or set of cores.

Every rank follows the same program. Stage 1 averages gradients (:func:`average`), what adapts on
images shares out every batch (:mod:`embae_plugin.training.shared_batch`), features, neighbours and
rankings are computed in shards (:func:`shards`, :func:`gather_rows`), clusters by rank 0
(:func:`from_rank_zero`), and everything else, which takes seconds, alike by all, after which rank
0's weights are everybody's (:func:`copy_from_rank_zero`). Only rank 0 writes results. Without
``torchrun``, and outside of :func:`processes`, there is one rank and every function here does
nothing, so that no caller asks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

# A rank may wait this long for another, say for the clusters of millions of crops; one that ends
# is noticed at once.
PATIENCE = timedelta(days=1)

T = TypeVar("T")

_rank, _size = 0, 1


class PeerLost(ConnectionError):
    """Another process of this run has ended or does not answer."""


def rank() -> int:
    """This process's number; 0 where there is only one."""
    return _rank


def size() -> int:
    """How many processes work on this run."""
    return _size


@contextmanager
def processes(use_gpu: bool = True) -> Iterator[None]:
    """Joins the processes that ``torchrun`` started, for the length of the block.

    With GPUs, each rank takes the one that LOCAL_RANK names and gradients travel by NCCL; what
    lies in host memory, and everything without GPUs, travels by gloo.

    Raises:
        ValueError: there are fewer GPUs than ranks on this machine, or RANK and WORLD_SIZE do not
            fit together.
        PeerLost: the others cannot be reached.
    """
    global _rank, _size
    one, several = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (one.isdecimal() and several.isdecimal() and int(one) < int(several)):
        raise ValueError(f"RANK {one} with WORLD_SIZE {several}: must be whole numbers from 0, the "
                         "first below the second, as torchrun sets them")
    number, count = int(one), int(several)
    if count == 1:
        yield
        return
    backend = "gloo"
    if use_gpu and torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", number)), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"this machine has {gpus} GPU(s), too few for rank {local} on it: start no more "
                "processes than GPUs (torchrun --nproc_per_node), or set use_gpu False"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    with _noticing_loss():
        dist.init_process_group(backend, timeout=PATIENCE)
    _rank, _size = number, count
    if _rank:  # only rank 0 draws progress bars
        sys.stderr.isatty = lambda: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        _rank, _size = 0, 1
        dist.destroy_process_group()


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PeerLost(
            "another process of this run has ended or cannot be reached, and this one stops with "
            f"it; if that one left a message, it says why ({reason[:160]})"
        ) from error


def barrier() -> None:
    """Waits until every rank has come here."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether any rank's flag is set; the same answer everywhere."""
    if _size == 1:
        return flag
    value = torch.tensor([int(flag)])  # on the CPU: costs no GPU synchronisation
    with _noticing_loss():
        dist.all_reduce(value)
    return bool(value.item())


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank 0 runs the block, then all others: for work whose result is left on the disk."""
    if _rank:
        barrier()
    yield
    if _size > 1 and not _rank:
        barrier()


def check_same(what: str, value: object) -> None:
    """Compares a value's ``repr`` over the ranks; waits for all of them.

    Raises:
        ValueError: another rank has another value; says which.
    """
    if _size == 1:
        return
    values: list[Any] = [None] * _size
    with _noticing_loss():
        dist.all_gather_object(values, repr(value))
    other = next((k for k, text in enumerate(values) if text != values[0]), None)
    if other is not None:
        raise ValueError(
            f"{what}: {values[0]} in rank 0, {values[other]} in rank {other}. All processes need "
            "one command line, one data.save_dir and the same files, on every machine"
        )


@contextmanager
def apart() -> Iterator[None]:
    """While the block runs, this process works by itself: it is rank 0 of one."""
    global _rank, _size
    known = _rank, _size
    _rank, _size = 0, 1
    try:
        yield
    finally:
        _rank, _size = known


def from_rank_zero(work: Callable[[], T]) -> T:
    """What ``work()`` returns in rank 0, which alone calls it, in every rank."""
    if _size == 1:
        return work()
    found: list[Any] = [None]
    if _rank == 0:
        with apart():
            found = [work()]
    with _noticing_loss():
        dist.broadcast_object_list(found, 0, device=torch.device("cpu"))
    return found[0]  # type: ignore[no-any-return]


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Makes ``tensor`` the sum of all ranks'; in place, and the same bits everywhere."""
    if _size > 1:
        with _noticing_loss():
            dist.all_reduce(tensor)
    return tensor


def deal(sizes: Sequence[int]) -> list[list[int]]:
    """Numbers of pieces of work of some ``sizes`` for each rank: the largest first, each to the
    rank that has least so far.
    """
    hands: list[list[int]] = [[] for _ in range(_size)]
    work = [0] * _size
    for piece in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        least = work.index(min(work))
        hands[least].append(piece)
        work[least] += sizes[piece]
    return hands


@torch.no_grad()
def average(model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """Averages gradients, batch norm's running statistics and the loss; returns the mean loss.

    One all-reduce of a single buffer, after a backward pass that gave the same parameters
    gradients in every rank. Every rank normalises by the statistics of its own batch; with the
    running ones averaged as well, all ranks hold the same bits after every step.
    """
    if _size == 1:
        return loss
    shared = [p.grad for p in model.parameters() if p.grad is not None]
    shared += [  # the running statistics of the modules that the backward pass went through
        buffer
        for module in model.modules()
        if any(p.grad is not None for p in module.parameters(recurse=False))
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    flat = torch.cat([loss.reshape(1), *(tensor.reshape(-1) for tensor in shared)])
    with _noticing_loss():
        dist.all_reduce(flat)
    flat /= _size
    parts = torch.split(flat[1:], [tensor.numel() for tensor in shared])
    for tensor, part in zip(shared, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
    return flat[0]


def shards(count: int, block: int = 1) -> list[tuple[int, int]]:
    """(first, last + 1) of each rank's rows of ``count``, in whole blocks of ``block`` rows.

    Whole blocks, so that a row is computed in the same company, to the same bits, whatever the
    number of ranks.
    """
    blocks = -(-count // block)
    return list(pairwise(min(count, blocks * k // _size * block) for k in range(_size + 1)))


def gather_rows(mine: torch.Tensor, parts: list[tuple[int, int]]) -> torch.Tensor:
    """All ranks' rows, in order, in every rank.

    ``mine`` are this rank's rows (stop − start, …), ``parts`` those of :func:`shards`.
    """
    if _size == 1:
        return mine
    whole = mine.new_empty(parts[-1][1], *mine.shape[1:])
    start, stop = parts[_rank]
    whole[start:stop] = mine
    with _noticing_loss():
        for source, (first, last) in enumerate(parts):
            if last > first:
                dist.broadcast(whole[first:last], source)
    return whole


def copy_from_rank_zero(given: nn.Module | torch.Tensor) -> None:
    """Gives every rank the weights of rank 0's model, or its tensor."""
    values = [given] if torch.is_tensor(given) else list(given.state_dict().values())
    with torch.no_grad(), _noticing_loss():
        for value in values if _size > 1 else ():
            sent = value.contiguous()
            dist.broadcast(sent, 0)
            value.copy_(sent)
