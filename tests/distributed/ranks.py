"""Runs a function in several processes that know each other, forked from this one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import torch

from embae_plugin import distributed

PATIENCE = 90


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _work(
    rank: int, size: int, port: int, function: Any, arguments: tuple, answer: Any, joined: bool
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        with distributed.processes(use_gpu=False) if joined else nullcontext():
            result = function(*arguments)
    except BaseException as error:
        result = error
    answer.send_bytes(pickle.dumps(result))  # Pipe.send would share tensors' memory
    answer.close()


def in_ranks(
    size: int, function: Callable[..., Any], *arguments: Any, joined: bool = True
) -> list[Any]:
    """What ``function(*arguments)`` returns or raises in each of ``size`` ranks.

    Not ``joined`` it is a command, which joins the ranks itself, as torchrun starts it.
    A rank that dies without an answer gives an ``EOFError``.
    """
    context = multiprocessing.get_context("fork")
    port, started = free_port(), []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(rank, size, port, function, arguments, theirs, joined), daemon=True
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    answers = []
    for process, pipe in started:
        try:
            answered = pipe.poll(PATIENCE)
            late = TimeoutError("a rank hangs")
            answers.append(pickle.loads(pipe.recv_bytes()) if answered else late)
        except EOFError as error:
            answers.append(error)
        process.join(5)
        if process.is_alive():
            process.kill()
    return answers
