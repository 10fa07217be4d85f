"""The adversarial autoencoder with a triplet loss, which the paper tried and dropped (section 4).

"One option is to train a generative model, e.g. adversarial autoencoders, using an additional
update for z_id with the triplet loss. Unfortunately, the quality of embedding drops because the
updates for the adversarial and reconstruction losses spoil it." This engine shows whether it does:
the three losses have weights, each is logged, and the result is scored like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.data.batches import identity_batches
from embae_plugin.data.records import ImageRecords
from embae_plugin.losses import BatchHardTripletLoss, ReconstructionLoss
from embae_plugin.methods.embedding import TripletSettings
from embae_plugin.methods.registry import register_method
from embae_plugin.models.dense import new_linear
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import setting
from embae_plugin.training.phase import Batch, OptimisedPhase, Phase, set_lr
from embae_plugin.training.schedule import seeded
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


@dataclass(frozen=True)
class AdversarialSettings(TripletSettings, node="adversarial"):
    """The adversarial autoencoder."""

    max_epoch: int = setting(40, "Epochs.", least=0, compared=False)
    lr: float = setting(1e-4, "Adam's learning rate at the first epoch, of model and "
                        "discriminators alike.", above=0)
    final_lr: float = setting(1e-6, "… and at the last.", above=0)
    triplet_weight: float = setting(1.0, "Weight of the triplet loss on z_id.", least=0)
    reconstruction_weight: float = setting(1.0, "Weight of the reconstruction of h.", least=0)
    adversarial_weight: float = setting(1.0, "Weight of the priors of z_id and z_nui.", least=0)
    prior_std: float = setting(1.0, "Standard deviation of these Gaussian priors.", above=0)
    discriminator_dim: int = setting(512, "Units of a discriminator's hidden layers.", key="")
    soft_margin: bool = setting(True, "Softplus; False for a hinge with loss.triplet.margin.",
                                key="embae.embedding.soft_margin")


@register_method("aae", stage="adversarial", adapts=False,
                 help="an adversarial autoencoder with a triplet loss, on the sources")
class ImageAdversarialEngine(StageEngine):
    """Learns f_emb, f_nui and f_dec together on the sources' cached features.

    Triplet loss on z_id + reconstruction of h + a Gaussian prior on each of z_id and z_nui, held
    up by a discriminator. f_emb starts from stage 1, f_nui (one for all images) and f_dec afresh.
    The model is one whose trunk and f_emb stage 1 has trained; the trunk stays fixed. See
    :class:`AdversarialSettings` and :class:`StageEngine`.

    Raises:
        ValueError: settings that cannot work.
    """

    settings_class = AdversarialSettings
    stage = "adversarial"
    scored_phases = ("adversarial",)

    def __init__(self, datamanager: Any, model: EmbAE, part: str = "", **given: Any) -> None:
        super().__init__(datamanager, model, part, **given)
        if model.z_nui_dim == 0:
            raise ValueError("z_nui_dim is 0: there is no nuisance code to give a prior to")
        node = self.settings
        self.triplet = BatchHardTripletLoss("soft" if node.soft_margin else node.margin)

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.data.source

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        return {**super().identity(), "loss": repr(self.triplet)}

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase."""
        generator = seeded(self.seed, self.stage, "weights")
        self.model.reset_nuisance(1, generator)
        self.model.f_dec.reset_parameters(generator)
        return [AdversarialPhase(self, max_epoch)]


class AdversarialPhase(OptimisedPhase):
    """Discriminators, then autoencoder, in every step; P×K batches of cached features."""

    engine: ImageAdversarialEngine

    def __init__(self, engine: ImageAdversarialEngine, max_epoch: int) -> None:
        records, model, node = engine.source, engine.model, engine.settings
        super().__init__(engine, "adversarial", max_epoch, records.paths)
        self.lr, self.final_lr = node.lr, node.final_lr
        self.pids, self.dsetids = torch.as_tensor(records.pids), torch.as_tensor(records.dsetids)
        self.steps = max(1, len(records) // node.batch_size)
        self.batches(0)  # refuses too few identities now, not after the features are computed
        generator = seeded(engine.seed, engine.stage, "discriminators")
        dims = {"z_id": model.z_id_dim, "z_nui": model.z_nui_dim}
        self.judges = nn.ModuleDict(
            {name: discriminator(dims[name], node.discriminator_dim, generator) for name in CODES}
        ).to(engine.device)
        self.reconstruction = ReconstructionLoss()
        self.view = torch.zeros(0, dtype=torch.long)

    def parts(self) -> list[nn.Module]:
        """See :class:`OptimisedPhase`."""
        model = self.engine.model
        return [model.f_emb, model.f_nui, model.f_dec]

    def start(self) -> None:
        """Reads the cached features; makes the discriminators' optimiser."""
        engine = self.engine
        self.features = engine.store.features(engine.model, engine.data.source, "source")
        super().start()
        self.judging = torch.optim.Adam(self.judges.parameters(), lr=self.lr, fused=True)

    def batches(self, epoch: int) -> torch.Tensor:
        """(steps, P·K) images."""
        engine, node = self.engine, self.engine.settings
        return identity_batches(
            self.pids, self.dsetids, node.batch_size // node.num_instances, node.num_instances,
            self.steps, seeded(engine.seed, engine.stage, "batches", epoch),
        )

    def start_epoch(self, epoch: int) -> float:
        """Draws views as well; see :class:`OptimisedPhase`."""
        rate = super().start_epoch(epoch)
        generator = seeded(self.engine.seed, self.engine.stage, "views", epoch)
        self.view = torch.randint(self.features.shape[1], self.plan.shape, generator=generator)
        set_lr(self.judging, rate)
        return rate

    def generator(self, epoch: int, step: int) -> torch.Generator:
        """See :class:`OptimisedPhase`."""
        return seeded(self.engine.seed, self.engine.stage, epoch, step)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The weighted sum, the losses in it and the discriminators' own."""
        engine, model, device = self.engine, self.engine.model, self.engine.device
        h = self.features[batch.rows.to(device), self.view[batch.step].to(device)]
        codes = {"z_id": model.f_emb(h), "z_nui": model.f_nui.forward_grouped(h[None])[0]}
        found_out = self._train_judges(codes, batch.generator)
        losses = {
            "triplet": engine.triplet(codes["z_id"], self.pids[batch.rows].to(device)),
            "reconstruction": self.reconstruction(model.reconstruct(*codes.values()), h),
            "adversarial": torch.stack(
                [deception_loss(self.judges[name], code) for name, code in codes.items()]
            ).sum(),
        }
        weighted = [getattr(engine.settings, f"{name}_weight") * x for name, x in losses.items()]
        return {"loss": torch.stack(weighted).sum(), **losses, **found_out}

    def _train_judges(
        self, codes: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        losses = {}
        for name, code in codes.items():
            prior = self.engine.settings.prior_std * torch.randn(code.shape, generator=generator)
            losses[f"discriminator_{name}"] = discrimination_loss(
                self.judges[name], prior.to(code.device), code.detach()
            )
        self.judging.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.judging.step()
        return losses

    def state(self) -> dict[str, Any]:
        """The discriminators and their optimiser."""
        return {"judges": self.judges.state_dict(), "discriminators": self.judging.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`OptimisedPhase`."""
        self.judges.load_state_dict(state["judges"])
        self.judging.load_state_dict(state["discriminators"])
