"""The stage 1 step: gather, augment, forward, loss, backward, Adam.

A batch is 72 small images, so on a GPU the time goes into launching some hundred kernels, not
into running them. Captured once as a CUDA graph, the whole step is a single launch. The plain
eager step does the same arithmetic and is the reference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import nn

from embae_plugin import distributed
from embae_plugin.data.augment import Augmentation, flip, normalise
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.models.camera_norm import of_camera

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bf16")
NEARLY_EQUAL = 0.9  # of float32's time; bfloat16 must take less to be worth its roundings

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is done by the hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def resolve_precision(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16, for ``auto``, ``float32`` or ``bf16``."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: must be auto, float32 or bf16")
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def faster_precision(
    network: nn.Module, size: tuple[int, int, int, int], repeats: int = 2
) -> str:
    """``bf16`` or ``float32``, whichever learns from a batch faster here; float32 if nearly equal.

    On processors bfloat16 pays for some networks and costs others, and which is which differs from
    one processor to the next. The time of a forward and backward pass of a copy is compared.

    Args:
        network: images (B, 3, H, W) to features, on the processor.
        size: (B, 3, H, W) of a batch.
    """
    copied = of_camera(network, -1).train().requires_grad_(True)  # a copy, of plain batch norm
    copied.to(memory_format=torch.channels_last)
    images = torch.rand(size, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    seconds = {}
    with torch.random.fork_rng(devices=[]):
        for name in ("float32", "bf16"):
            times = []
            for _ in range(1 + repeats):  # the first prepares memory and kernels
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                    loss = copied(images).float().square().mean()
                loss.backward()
                times.append(time.perf_counter() - start)
            seconds[name] = min(times[1:])
    faster = "bf16" if seconds["bf16"] < NEARLY_EQUAL * seconds["float32"] else "float32"
    logger.info("precision auto: a step takes %.2f s in float32 and %.2f s in bfloat16; %s is used",
                seconds["float32"], seconds["bf16"], faster)
    return faster


def precision_name(bf16: bool) -> str:
    """What two runs must share to end with the same weights, as it is written down."""
    return "bf16" if bf16 else "float32"


class EagerStep:
    """One step, operation by operation; works everywhere.

    Args:
        model: training forward gives (logits, z_id).
        loss: of (z_id, pids).
        optimizer: of the model's parameters.
        bf16: autocast the trunk to bfloat16.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, bf16: bool
    ) -> None:
        self.model, self.loss, self.optimizer, self.bf16 = model, loss, optimizer, bf16

    def compute(self, batch: torch.Tensor, pids: torch.Tensor) -> torch.Tensor:
        """Forward, loss, backward and update; returns the detached loss, the ranks' mean."""
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.bf16):
            _, z_id = self.model(batch)
        loss = self.loss(z_id, pids)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean = distributed.average(self.model, loss.detach())
        self.optimizer.step()
        return mean

    def __call__(
        self,
        bank: ImageBank,
        index: torch.Tensor,
        pids: torch.Tensor,
        augment: Augmentation,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """One step on the images at ``index`` (B,), whose identities are ``pids`` (B,)."""
        batch = augment(bank.batch(index), generator)
        return self.compute(batch, pids.to(batch.device, non_blocking=True))


class GraphStep:
    """The same step, captured once as a CUDA graph and replayed.

    Needs the images on the GPU, flip as the only augmentation, and an optimiser whose step can
    be captured (Adam with ``capturable=True`` and a tensor as learning rate).
    """

    warmup = 3

    def __init__(
        self, eager: EagerStep, bank: ImageBank, augment: Augmentation, batch_size: int
    ) -> None:
        self.eager, self.bank, self.augment = eager, bank, augment
        device = bank.images.device
        self.index = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.pids = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.coin = torch.zeros(batch_size, dtype=torch.bool, device=device)
        self.mean = torch.tensor(augment.mean, device=device)
        self.std = torch.tensor(augment.std, device=device)
        self.graph = torch.cuda.CUDAGraph()
        self.result = torch.zeros((), device=device)
        self.captured = False

    def _body(self) -> torch.Tensor:
        images = flip(self.bank.images[self.index], self.coin)
        return self.eager.compute(normalise(images, self.mean, self.std), self.pids)

    def _capture(self) -> None:
        """Warms up on a side stream, puts every weight back as it was, and captures."""
        model, optimizer = self.eager.model, self.eager.optimizer
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fresh = not optimizer.state
        kept = {key: {n: v.clone() for n, v in state.items() if torch.is_tensor(v)}
                for key, state in optimizer.state.items()}
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.warmup):
                self._body()
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(before[name])
            for key, state in optimizer.state.items():
                for name, value in state.items():
                    if torch.is_tensor(value):
                        value.zero_() if fresh else value.copy_(kept[key][name])
        with torch.cuda.graph(self.graph):
            self.result = self._body()
        self.captured = True

    def __call__(
        self,
        bank: ImageBank,
        index: torch.Tensor,
        pids: torch.Tensor,
        augment: Augmentation,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """See :meth:`EagerStep.__call__`; draws the same random numbers."""
        coin = augment.coin(len(index), generator)
        self.index.copy_(index, non_blocking=True)
        self.pids.copy_(pids, non_blocking=True)
        self.coin.copy_(coin, non_blocking=True)
        if not self.captured:
            self._capture()
        self.graph.replay()
        return self.result.clone()


def build_step(
    mode: str,
    eager: EagerStep,
    bank: ImageBank,
    augment: Augmentation,
    batch_size: int,
    by_camera: bool = False,
) -> EagerStep | GraphStep:
    """The step for ``embae.embedding.step``: ``auto``, ``eager`` or ``graph``.

    Args:
        by_camera: batches are normalised camera by camera.

    Raises:
        ValueError: ``graph`` was asked for where it cannot work; says why.
    """
    if mode not in ("auto", "eager", "graph"):
        raise ValueError(f"embae.embedding.step is {mode!r}: must be auto, eager or graph")
    obstacles = []
    if bank.images.device.type != "cuda":
        obstacles.append("the images are not on a GPU")
    if set(augment.transforms) - {"random_flip"}:
        obstacles.append(f"transforms {', '.join(augment.transforms)} are not just random_flip")
    if not all(group.get("capturable") for group in eager.optimizer.param_groups):
        obstacles.append("the optimiser is not capturable Adam")
    if distributed.size() > 1:
        obstacles.append("several processes train together")
    if by_camera:
        obstacles.append("embae.embedding.camera_norm splits every batch in another way")
    if mode == "graph" and obstacles:
        raise ValueError(f"embae.embedding.step graph cannot be used: {'; '.join(obstacles)}")
    if mode == "eager" or obstacles:
        return eager
    logger.info("stage 1 runs as one captured CUDA graph")
    return GraphStep(eager, bank, augment, batch_size)
