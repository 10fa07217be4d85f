"""What keeps the nuisance code from carrying everything: noise, dropout, a prior, decorrelation.

With z_nui as wide as z_id the decoder can read most of a feature from z_nui alone, and little has
to be held by z_id. A narrower code is one remedy; these are others. All act in training only, and
none is part of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from embae_plugin.settings.fields import Settings, setting


def dropout(x: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Zeroes entries with probability ``rate`` and scales the others by 1 / (1 − rate).

    Unlike ``nn.Dropout`` it draws from a generator of its own (on the CPU), so that a resumed run
    drops what it would have dropped.
    """
    keep = torch.rand(x.shape, generator=generator) >= rate
    return x * keep.to(x.device) / (1 - rate)


def cross_covariance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared correlation between each unit of ``a`` (B, m) and each of ``b`` (B, n).

    The XCov penalty of Cheung et al. (ICLR workshop, 2015), of units brought to unit variance
    first, so that shrinking a code is no way out of it. From 0 to 1; 0 for a batch of one.
    """
    if len(a) < 2:
        return (a.sum() + b.sum()) * 0.0
    a, b = (x.float() - x.float().mean(0) for x in (a, b))
    a, b = (x * torch.rsqrt(x.square().mean(0) + 1e-12) for x in (a, b))
    return (a.T @ b / len(a)).square().mean()


@dataclass(frozen=True)
class Bottleneck(Settings, node="nuisance"):
    """How z_nui is held back while an autoencoder learns; every part is off at 0.

    Attributes:
        noise: standard deviation of Gaussian noise on each unit, as a multiple of the unit's own
            over the batch. A unit can then tell the decoder log₂(1 + 1/noise²)/2 bits at most,
            however large its values become (the Gaussian channel; Shannon, 1948).
        dropout: share of z_nui's entries that the decoder does not get (Srivastava et al., 2014).
        variational: weight of the divergence of N(z_nui, 1) from N(0, 1), in nats an image; the
            decoder gets a sample of the former. A variational autoencoder of constant variance
            (Ghosh et al., ICLR 2020).
        decorrelation: weight of :func:`cross_covariance` between z_id and z_nui.
    """

    noise: float = setting(0.0, "Noise on z_nui, in standard deviations of a unit.", least=0)
    dropout: float = setting(0.0, "Share of z_nui that the decoder does not get.",
                             least=0, below=1)
    variational: float = setting(0.0, "Weight of the divergence of z_nui's prior.", least=0)
    decorrelation: float = setting(0.0, "Weight of the correlation of z_id and z_nui.", least=0)

    def narrow(self, z_nui: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(B, d) what the decoder gets of a training batch's z_nui (B, d)."""
        if self.noise:
            spread = z_nui.std(0, unbiased=False, keepdim=True)
            drawn = torch.randn(z_nui.shape, generator=generator).to(z_nui)
            z_nui = z_nui + self.noise * spread * drawn
        if self.variational:
            z_nui = z_nui + torch.randn(z_nui.shape, generator=generator).to(z_nui)
        return dropout(z_nui, self.dropout, generator) if self.dropout else z_nui

    def penalty(self, z_id: torch.Tensor, z_nui: torch.Tensor) -> torch.Tensor:
        """What is added to the reconstruction error of a batch; a scalar."""
        total = z_nui.new_zeros(())
        if self.variational:
            total = total + self.variational * z_nui.square().sum(1).mean() / 2
        if self.decorrelation:
            total = total + self.decorrelation * cross_covariance(z_id, z_nui)
        return total


OPEN = Bottleneck()  # the paper's
