"""The EmbAE network: a trunk, the embedding head, the nuisance heads and the decoder."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models.camera_norm import at_cameras, current_of, use_cameras
from embae_plugin.models.dense import new_linear
from embae_plugin.models.heads import Decoder, DenseHead, HeadBank
from embae_plugin.models.trunks import Trunk, build_trunk

LOSSES = ("embae", "softmax", "triplet")
OUTPUTS = ("z_id", "joint", "h")
CAMERA_PARTS = ("heads", "trunk")


class EmbAE(nn.Module):
    """An embedding autoencoder on the features of a trunk (paper 3.2).

    h = trunk(x), z_id = f_emb(h), z_nui = f_nui(h) and ĥ = f_dec([z_id, z_nui]). It autoencodes h,
    never pixels. The children ``trunk``, ``f_emb``, ``f_nui``, ``f_dec`` and, with classes,
    ``classifier`` hold all parameters.

    Args:
        trunk: maps (B, 3, H, W) to (B, trunk.feature_dim).
        num_classes: identities of a classifier on z_id, for torchreid's own losses; 0 for none.
        loss: what a training forward returns, see :meth:`forward`.
        z_id_dim: width of the embedding z_id.
        z_nui_dim: width of the nuisance latent z_nui; 0 for an autoencoder of z_id alone.
        hidden_dim: units of the hidden layer of f_emb, f_nui and f_dec.
        num_nuisance: heads of f_nui: one for all images, or one for each dataset or camera.
        order: ``relu_bn`` (paper 4.2) or ``bn_relu``, see :class:`DenseHead`.
        generator: of the initial weights of all parts but the trunk; None for torch's global one.

    Raises:
        ValueError: an impossible width, count, loss or order.
    """

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int = 0,
        loss: str = "embae",
        z_id_dim: int = 128,
        z_nui_dim: int = 128,
        hidden_dim: int = 1024,
        num_nuisance: int = 1,
        order: str = "relu_bn",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"z_id_dim": z_id_dim, "z_nui_dim": z_nui_dim, "hidden_dim": hidden_dim}
        for name, size in sizes.items():
            least = 0 if name == "z_nui_dim" else 1
            if size < least:
                raise ValueError(f"{name} of an EmbAE model must be at least {least}, not {size}")
        if loss not in LOSSES:
            raise ValueError(f"loss of an EmbAE model is one of {', '.join(LOSSES)}, not {loss!r}")
        if num_classes < 0 or (num_classes == 0 and loss == "softmax"):
            raise ValueError(f"loss {loss!r} with {num_classes} classes: it needs at least one")
        self.loss, self.num_classes, self.order = loss, num_classes, order
        self.output, self.camera_parts, self.cameras = "z_id", "", 0
        self.z_id_dim, self.z_nui_dim, self.hidden_dim = z_id_dim, z_nui_dim, hidden_dim
        self.trunk = trunk
        width = trunk.feature_dim
        self.f_emb = DenseHead(width, hidden_dim, z_id_dim, order, generator)
        self.f_nui = HeadBank(num_nuisance, width, hidden_dim, z_nui_dim, order, generator)
        self.f_dec = Decoder(z_id_dim + z_nui_dim, hidden_dim, width, generator)
        if num_classes:
            self.classifier = new_linear(z_id_dim, num_classes, generator)

    @property
    def feature_dim(self) -> int:
        """Width of what the model returns in eval mode, as torchreid's models name it."""
        h, z_id = self.trunk.feature_dim, self.z_id_dim
        return {"z_id": z_id, "joint": h + z_id, "h": h}[self.output]

    def learn_cameras(self, parts: str, cameras: int) -> None:
        """Gives batch norm layers statistics for each camera, see :class:`CameraNorm`; in place.

        All start from what the layers have; see :func:`engine.camera_statistics.estimate`.

        Args:
            parts: ``heads`` (that of f_emb) or ``trunk`` (all of its).
            cameras: C; the model's camera numbers are 0 to C − 1.

        Raises:
            ValueError: another part, no batch norm in it, or a model that knows cameras already.
        """
        if parts not in CAMERA_PARTS or self.camera_parts:
            raise ValueError(
                f"statistics by camera of {parts!r}: must be one of {', '.join(CAMERA_PARTS)}, "
                f"and the model have none yet (it has: {self.camera_parts or 'none'})"
            )
        use_cameras(self.f_emb if parts == "heads" else self.trunk, cameras)
        self.camera_parts, self.cameras = parts, cameras

    def known_cameras(self, camids: torch.Tensor) -> torch.Tensor:
        """(N,) camera numbers, −1 where the model does not know the camera."""
        known = (camids >= 0) & (camids < self.cameras)
        return torch.where(known, camids, torch.full_like(camids, -1))

    def embed_features(self, h: torch.Tensor, camids: torch.Tensor | None = None) -> torch.Tensor:
        """From trunk features to embeddings.

        Args:
            h: (B, trunk.feature_dim).
            camids: (B,) or (1,) camera numbers, where f_emb has statistics by camera.

        Returns:
            z_id (B, z_id_dim); with ``output`` joint, h and z_id, each of length 1, side by side;
            with ``output`` h, h itself.
        """
        if self.output == "h":
            return h.float()
        with at_cameras(self.f_emb, camids):
            z_id = cast(torch.Tensor, self.f_emb(h))
        if self.output == "z_id":
            return z_id
        return torch.cat([F.normalize(h.float(), dim=1), F.normalize(z_id, dim=1)], dim=1)

    def forward(
        self, x: torch.Tensor, camids: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor | None, torch.Tensor]:
        """Embeds images.

        The trunk runs in whatever precision autocast chooses, the rest in that of its weights.

        Args:
            x: (B, 3, H, W) normalised images, contiguous or channels_last.
            camids: (B,) camera numbers for a model with statistics by camera; −1 or None for a
                camera it has never seen. In training the batch must be sorted by them.

        Returns:
            In eval mode what :meth:`embed_features` gives. In training what torchreid's engines
            expect: logits (B, num_classes) for loss ``softmax``, otherwise (logits, z_id), where
            logits are None without classes.
        """
        if camids is not None and current_of(self) is not None:
            camids = camids if self.training else self.known_cameras(camids)
        else:
            camids = None
        with at_cameras(self.trunk, camids):
            h = self.trunk(x)
        if not self.training:
            return self.embed_features(h, camids)
        with at_cameras(self.f_emb, camids):
            z_id = self.f_emb(h)
        logits: torch.Tensor | None = None
        if self.num_classes:
            with torch.autocast(z_id.device.type, enabled=False):
                logits = self.classifier(z_id)
        if self.loss == "softmax":
            return cast(torch.Tensor, logits)
        return logits, z_id

    def reconstruct(self, z_id: torch.Tensor, z_nui: torch.Tensor) -> torch.Tensor:
        """ĥ (B, trunk.feature_dim) from z_id (B, z_id_dim) and z_nui (B, z_nui_dim)."""
        return cast(torch.Tensor, self.f_dec(torch.cat([z_id, z_nui], dim=1)))

    def reset_nuisance(self, num_nuisance: int, generator: torch.Generator | None = None) -> None:
        """Replaces f_nui by ``num_nuisance`` fresh heads, on the same device and in the same mode.

        Optimisers of the old heads do not know the new ones.
        """
        old = self.f_nui
        new = HeadBank(num_nuisance, old.in_dim, old.hidden_dim, old.out_dim, old.order, generator)
        new.to(old.fc1_weight.device, old.fc1_weight.dtype).train(old.training)
        self.f_nui = new

    def spec(self) -> dict[str, Any]:
        """What :meth:`from_spec` needs to build a model of the same shape, in plain values."""
        spec: dict[str, Any] = {
            "trunk": self.trunk.name,
            "num_classes": self.num_classes,
            "loss": self.loss,
            "z_id_dim": self.z_id_dim,
            "z_nui_dim": self.z_nui_dim,
            "hidden_dim": self.hidden_dim,
            "num_nuisance": self.f_nui.num_heads,
            "order": self.order,
        }
        if self.output != "z_id":
            spec["output"] = self.output
        if self.camera_parts:
            spec["camera_parts"], spec["cameras"] = self.camera_parts, self.cameras
        return spec

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> EmbAE:
        """A model of the shape that ``spec`` describes, its weights random. Nothing is fetched.

        The global random state is left as it is.

        Raises:
            ValueError: missing or unknown entries, or impossible values.
        """
        known, more = set(_SPEC_KEYS), {"output", "camera_parts", "cameras"}
        if not known <= set(spec) <= known | more:
            missing = sorted(known - set(spec))
            unknown = sorted(map(str, set(spec) - known - more))
            raise ValueError(
                f"not the description of an EmbAE model: missing {missing}, unknown {unknown}"
            )
        for key in (*_COUNTS, "cameras"):
            if type(spec.get(key, 0)) is not int:
                raise ValueError(f"{key} of an EmbAE model must be a whole number, not "
                                 f"{spec[key]!r}")  # fmt: skip
        output = spec.get("output", "z_id")
        if output not in OUTPUTS:
            raise ValueError(
                f"output of an EmbAE model is one of {', '.join(OUTPUTS)}, not {output!r}"
            )
        generator = torch.Generator().manual_seed(0)
        sizes = {key: spec[key] for key in _SPEC_KEYS if key != "trunk"}
        trunk = build_trunk(str(spec["trunk"]), generator=generator)
        model = cls(trunk, **sizes, generator=generator)
        model.output = output
        if spec.get("camera_parts"):
            model.learn_cameras(str(spec["camera_parts"]), spec.get("cameras", 0))
        return model


_COUNTS = ("num_classes", "z_id_dim", "z_nui_dim", "hidden_dim", "num_nuisance")
_SPEC_KEYS = ("trunk", "loss", "order", *_COUNTS)
