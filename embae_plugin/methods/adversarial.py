"""The adversarial autoencoder with a triplet loss, which the paper tried and dropped (section 4).

"One option is to train a generative model, e.g. adversarial autoencoders, using an additional
update for z_id with the triplet loss. Unfortunately, the quality of embedding drops because the
updates for the adversarial and reconstruction losses spoil it." This engine shows whether it does:
the three losses have weights, each is logged, and the result is scored like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.data.batches import identity_batches
from embae_plugin.losses import BatchHardTripletLoss, ReconstructionLoss
from embae_plugin.models.dense import new_linear
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Phase
from embae_plugin.training.schedule import exponential_lr, seeded
from embae_plugin.training.stage_engine import StageEngine

CODES = ("z_id", "z_nui")


def discriminator(dim: int, hidden_dim: int, generator: torch.Generator) -> nn.Sequential:
    """Three linear layers with ReLU, (B, dim) to a logit (B, 1): is this drawn from the prior?"""
    return nn.Sequential(
        new_linear(dim, hidden_dim, generator),
        nn.ReLU(),
        new_linear(hidden_dim, hidden_dim, generator),
        nn.ReLU(),
        new_linear(hidden_dim, 1, generator),
    )


def discrimination_loss(judge: nn.Module, prior: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """Mean binary cross entropy of telling ``prior`` (B, d) from ``code`` (B, d); ln 2 by chance.

    The adversarial autoencoder's regularisation phase (Makhzani et al., 2015, section 2).
    """
    return (F.softplus(-judge(prior)).mean() + F.softplus(judge(code)).mean()) / 2


def deception_loss(judge: nn.Module, code: torch.Tensor) -> torch.Tensor:
    """How well ``code`` (B, d) is found out, −ln of its probability to be from the prior.

    The non-saturating form of the generator's loss (Goodfellow et al., 2014).
    """
    return F.softplus(-judge(code)).mean()


class ImageAdversarialEngine(StageEngine):
    """Learns f_emb, f_nui and f_dec together on the sources' cached features.

    Triplet loss on z_id + reconstruction of h + a Gaussian prior on each of z_id and z_nui, held
    up by a discriminator. f_emb starts from stage 1, f_nui (one for all images) and f_dec afresh.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model whose trunk and f_emb stage 1 has trained; the trunk stays fixed.
        triplet_weight, reconstruction_weight, adversarial_weight: of the three losses.
        prior_std: standard deviation of the priors.
        discriminator_dim: units of a discriminator's hidden layers.
        lr, final_lr: Adam's rate at the first and last epoch, for model and discriminators alike.
        soft_margin: softplus; False for a hinge with ``margin``.
        batch_size, num_instances: P·K and K.
        use_gpu, seed, store: see :class:`StageEngine`.

    Raises:
        ValueError: settings that cannot work.
    """

    stage = "adversarial"
    scored_phases = ("adversarial",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        *,
        triplet_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        prior_std: float = 1.0,
        discriminator_dim: int = 512,
        lr: float = 1e-4,
        final_lr: float = 1e-6,
        soft_margin: bool = True,
        margin: float = 0.3,
        batch_size: int = 72,
        num_instances: int = 4,
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        super().__init__(datamanager, model, use_gpu, seed, store)
        if model.z_nui_dim == 0:
            raise ValueError("z_nui_dim is 0: there is no nuisance code to give a prior to")
        if batch_size % num_instances:
            raise ValueError(f"batch size {batch_size} is not divisible by K = {num_instances}")
        if not 0 < prior_std < math.inf:
            raise ValueError(f"prior_std is {prior_std}; it must be greater than 0")
        self.weights = {"triplet": triplet_weight, "reconstruction": reconstruction_weight,
                        "adversarial": adversarial_weight}  # fmt: skip
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}_weight is {weight}; it must not be negative")
        self.prior_std, self.discriminator_dim = prior_std, discriminator_dim
        self.lr, self.final_lr = lr, final_lr
        self.triplet = BatchHardTripletLoss("soft" if soft_margin else margin)
        self.batch_size, self.num_instances = batch_size, num_instances

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        names = ("prior_std", "discriminator_dim", "lr", "final_lr", "batch_size", "num_instances")
        return {
            **super().identity(),
            **{f"{name}_weight": weight for name, weight in self.weights.items()},
            **{name: getattr(self, name) for name in names},
            "loss": repr(self.triplet),
            "images": len(self.data.source),
        }

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase."""
        if self.data.source.pids is None:
            raise ValueError("the triplet loss needs identities; the source images carry none")
        generator = seeded(self.seed, self.stage, "weights")
        self.model.reset_nuisance(1, generator)
        self.model.f_dec.reset_parameters(generator)
        return [AdversarialPhase(self, max_epoch)]


class AdversarialPhase:
    """Discriminators, then autoencoder, in every step; P×K batches of cached features."""

    name = "adversarial"

    def __init__(self, engine: ImageAdversarialEngine, max_epoch: int) -> None:
        self.engine, self.epochs = engine, max_epoch
        records, model = engine.data.source, engine.model
        self.pids, self.dsetids = torch.as_tensor(records.pids), torch.as_tensor(records.dsetids)
        self.steps = max(1, len(records) // engine.batch_size)
        self._draw(0)  # refuses too few identities now, not after the features are computed
        generator = seeded(engine.seed, engine.stage, "discriminators")
        dims = {"z_id": model.z_id_dim, "z_nui": model.z_nui_dim}
        self.judges = nn.ModuleDict(
            {name: discriminator(dims[name], engine.discriminator_dim, generator) for name in CODES}
        ).to(engine.device)
        self.reconstruction = ReconstructionLoss()
        self.plan = self.view = torch.zeros(0, dtype=torch.long)

    def _draw(self, epoch: int) -> torch.Tensor:
        engine = self.engine
        return identity_batches(
            self.pids, self.dsetids, engine.batch_size // engine.num_instances,
            engine.num_instances, self.steps, seeded(engine.seed, engine.stage, "batches", epoch),
        )  # fmt: skip

    def start(self) -> None:
        """Reads the cached features, freezes the trunk, makes both optimisers."""
        engine, model = self.engine, self.engine.model
        self.features = engine.store.features(model, engine.data.source, "source").features
        model.eval()
        model.requires_grad_(False)
        self.learned = [model.f_emb, model.f_nui, model.f_dec]
        for part in self.learned:
            part.requires_grad_(True)
        parameters = [p for part in self.learned for p in part.parameters()]
        self.optimizers = {
            "autoencoder": torch.optim.Adam(parameters, lr=engine.lr, fused=True),
            "discriminators": torch.optim.Adam(self.judges.parameters(), lr=engine.lr, fused=True),
        }

    def start_epoch(self, epoch: int) -> float:
        """Draws the epoch's batches and views; returns its learning rate."""
        engine = self.engine
        for part in self.learned:
            part.train()
        self.plan = self._draw(epoch)
        generator = seeded(engine.seed, engine.stage, "views", epoch)
        self.view = torch.randint(self.features.shape[1], self.plan.shape, generator=generator)
        rate = exponential_lr(epoch, self.epochs, engine.lr, engine.final_lr)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        """One step; returns the weighted sum, the losses in it and the discriminators' own."""
        engine, model, device = self.engine, self.engine.model, self.engine.device
        index = self.plan[step]
        h = self.features[index.to(device), self.view[step].to(device)]
        codes = {"z_id": model.f_emb(h), "z_nui": model.f_nui.forward_grouped(h[None])[0]}
        found_out = self._train_judges(codes, seeded(engine.seed, engine.stage, epoch, step))
        losses = {
            "triplet": engine.triplet(codes["z_id"], self.pids[index].to(device)),
            "reconstruction": self.reconstruction(model.reconstruct(*codes.values()), h),
            "adversarial": torch.stack(
                [deception_loss(self.judges[name], code) for name, code in codes.items()]
            ).sum(),
        }
        total = torch.stack([engine.weights[name] * loss for name, loss in losses.items()]).sum()
        self._update("autoencoder", total)
        return {"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}, **found_out}

    def _train_judges(
        self, codes: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        losses = {}
        for name, code in codes.items():
            prior = self.engine.prior_std * torch.randn(code.shape, generator=generator)
            losses[f"discriminator_{name}"] = discrimination_loss(
                self.judges[name], prior.to(code.device), code.detach()
            )
        self._update("discriminators", torch.stack(list(losses.values())).sum())
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self, which: str, loss: torch.Tensor) -> None:
        self.optimizers[which].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[which].step()

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers and the discriminators."""
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"judges": self.judges.state_dict(), **states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.judges.load_state_dict(state["judges"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])

    def describe(self, epoch: int, step: int) -> str:
        """The images of a step."""
        names = [self.engine.data.source.paths[i] for i in self.plan[step].tolist()]
        return f"The batch's images: {', '.join(names)}"
