"""The stage 1 step against a plain training loop written out with torchvision and autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.transforms import functional as tvf

from embae_plugin.data.augment import Augmentation
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods.embedding import paper_adam
from embae_plugin.methods.embedding_phases import set_lr
from embae_plugin.models.camera_norm import use_cameras
from embae_plugin.training import train_step
from embae_plugin.training.schedule import seeded
from embae_plugin.training.train_step import (
    EagerStep,
)
from tests.methods.tiny import (
    HEIGHT,
    WIDTH,
    same_weights,
    two_layer_model,
    two_layer_trunk,
    write_crops,
)

HALF = (0.5, 0.5, 0.5)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_crops(tmp_path_factory.mktemp("crops"), people=4, cameras=2, each=3)


@pytest.fixture(scope="module")
def bank(records):
    return ImageBank(records.paths, HEIGHT, WIDTH)


def batches(records, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Index and identities of 4 people times 3 images."""
    pids = torch.from_numpy(records.pids)
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(steps):
        rows = [torch.randperm(6, generator=generator)[:3] + 6 * person for person in range(4)]
        index = torch.cat(rows)
        drawn.append((index, pids[index]))
    return drawn


def plain_loss(z: torch.Tensor, pids: torch.Tensor) -> torch.Tensor:
    """Batch-hard with soft margin, anchor by anchor (Hermans et al., 2017)."""
    terms = []
    for a in range(len(z)):
        distance = [(z[a] - other).pow(2).sum().clamp_min(1e-24).sqrt() for other in z]
        positive = torch.stack([d for d, p in zip(distance, pids, strict=True) if p == pids[a]])
        negative = torch.stack([d for d, p in zip(distance, pids, strict=True) if p != pids[a]])
        terms.append(torch.log1p(torch.exp(positive.max() - negative.min())))
    return torch.stack(terms).mean()


def plain_training(model, optimizer, records, bank, steps: int, flips: bool) -> list[float]:
    augment = Augmentation(("random_flip",), HALF, HALF)
    losses = []
    for number, (index, pids) in enumerate(batches(records, steps)):
        coin = [False] * len(index)
        if flips:
            coin = augment.coin(len(index), seeded("augment", number))
        pictures = [tvf.to_tensor(bank.images[i].numpy()) for i in index]
        pictures = [
            tvf.hflip(p) if mirrored else p for p, mirrored in zip(pictures, coin, strict=True)
        ]
        batch = torch.stack([tvf.normalize(p, HALF, HALF) for p in pictures])
        _, z = model.train()(batch)
        loss = plain_loss(z, pids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def eager_training(
    model, records, bank, steps: int, flips: bool, bf16: bool = False, optimizer=None
) -> list[float]:
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = optimizer or paper_adam(model.parameters(), 1e-3, CPU)
    step = EagerStep(model, BatchHardTripletLoss(), optimizer, bf16=bf16)
    augment = Augmentation(("random_flip",) if flips else (), HALF, HALF)
    return [
        float(step(bank, index, pids, augment, seeded("augment", number)))
        for number, (index, pids) in enumerate(batches(records, steps))
    ]


@pytest.mark.parametrize("flips", [False, True])
def test_three_steps_are_those_of_a_plain_loop(records, bank, flips):
    mine, plain = two_layer_model(), two_layer_model()
    assert same_weights(mine, plain)
    # Plain descent: Adam would scale up the rounding of biases that batch norm makes idle.
    got = eager_training(mine, records, bank, 3, flips,
                         optimizer=torch.optim.SGD(mine.parameters(), lr=0.1))  # fmt: skip
    descent = torch.optim.SGD(plain.parameters(), lr=0.1)
    wanted = plain_training(plain, descent, records, bank, 3, flips)
    assert got == pytest.approx(wanted, rel=1e-4)
    start = two_layer_model()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-3, atol=1e-5)
        if name.startswith("trunk") or name == "f_emb.fc2.weight":
            assert not torch.equal(value, start.state_dict()[name]), name  # it did learn


def test_losses_with_the_papers_adam_are_those_of_a_plain_loop(records, bank):
    plain = two_layer_model()
    adam = torch.optim.Adam(plain.parameters(), lr=1e-3, betas=(0.9, 0.999))
    wanted = plain_training(plain, adam, records, bank, 4, flips=True)
    assert eager_training(two_layer_model(), records, bank, 4, flips=True) == pytest.approx(
        wanted, rel=1e-3
    )


def test_parts_that_stage_1_does_not_use_stay(records, bank):
    model, start = two_layer_model(), two_layer_model()
    eager_training(model, records, bank, 2, flips=True)
    assert same_weights(model.f_nui, start.f_nui) and same_weights(model.f_dec, start.f_dec)


def test_bfloat16_follows_float32(records, bank):
    """Over 8 steps each loss within 15 %, the mean within 3 %: bfloat16 carries 2 to 3 digits."""
    full = eager_training(two_layer_model(), records, bank, 8, flips=True)
    half_model = two_layer_model()
    half = eager_training(half_model, records, bank, 8, flips=True, bf16=True)
    assert half == pytest.approx(full, rel=0.15) and half != full
    assert sum(half) == pytest.approx(sum(full), rel=0.03)
    assert full[-1] < full[0] and half[-1] < half[0]
    assert {p.dtype for p in half_model.parameters()} == {torch.float32}


def test_the_step_leaves_the_banks_images_and_the_global_generator_alone(records, bank):
    before = bank.images.clone()
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    model = two_layer_model()
    torch.manual_seed(3)
    eager_training(model, records, bank, 2, flips=True)
    assert torch.equal(bank.images, before) and torch.equal(torch.rand(1), wanted)


# --- Adam and its rate ----------------------------------------------------------------------


def test_the_papers_adam_moves_as_kingma_and_ba_say():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = paper_adam([weight], 0.01, CPU)
    by_hand, m, v = weight.detach().double().clone(), 0.0, 0.0
    for t, gradient in enumerate(([0.5, 0.1], [-0.3, 0.2], [0.1, 0.0]), start=1):
        g = torch.tensor(gradient)
        weight.grad = g.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g.double(), 0.999 * v + 0.001 * g.double() ** 2
        by_hand -= 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), by_hand, rtol=0, atol=1e-6)


def test_set_lr_keeps_a_tensor_and_scales_groups():
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam([{"params": [layer.weight], "lr_mult": 0.1},
                                  {"params": [layer.bias]}], lr=1.0)  # fmt: skip
    rate = torch.tensor(1.0)
    optimizer.param_groups[1]["lr"] = rate
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert optimizer.param_groups[1]["lr"] is rate and float(rate) == 0.5


@pytest.mark.parametrize("cameras", [0, 3])
@pytest.mark.parametrize(("factor", "chosen"), [(2.0, "float32"), (0.5, "bf16"), (0.95, "float32")])
def test_auto_takes_the_faster_precision_and_leaves_the_network_as_it_is(
    monkeypatch, cameras, factor, chosen
):
    trunk = two_layer_trunk()
    if cameras:
        use_cameras(trunk, cameras)
    before, state = copy.deepcopy(trunk), torch.get_rng_state()
    clock = iter(range(10**6))

    def tick() -> float:
        """A clock on which a pass in float32, of which three come first, takes a second."""
        n = next(clock)
        return n // 2 * 100 + n % 2 * (1.0 if n < 6 else factor)

    monkeypatch.setattr(train_step.time, "perf_counter", tick)
    assert train_step.faster_precision(trunk, (4, 3, 32, 16)) == chosen
    assert same_weights(before, trunk) and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in trunk.parameters())
