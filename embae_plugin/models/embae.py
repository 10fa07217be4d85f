"""The EmbAE network: a trunk, the embedding head, the nuisance heads and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models.camera_guess import CameraGuess
from embae_plugin.models.camera_norm import at_cameras, has_batch_norm, of_camera, use_cameras
from embae_plugin.models.dense import Decoder, DenseHead, OwnHead, new_linear
from embae_plugin.models.heads import HeadBank
from embae_plugin.models.trunks import Trunk, build_network, build_trunk

LOSSES = ("embae", "softmax", "triplet")
OUTPUTS = ("z_id", "joint", "h")
HEADS = ("dense", "own", "none")
CAMERA_PARTS = ("heads", "trunk")


class EmbAE(nn.Module):
    """An embedding autoencoder on the features of a trunk (paper 3.2).

    h = trunk(x), z_id = f_emb(h), z_nui = f_nui(h) and ĥ = f_dec([z_id, z_nui]). It autoencodes h,
    never pixels. The children ``trunk``, ``f_emb``, ``f_nui``, ``f_dec`` and, with classes,
    ``classifier`` hold all parameters.

    A Re-ID network that somebody else has trained is such a model without the autoencoder, see
    :meth:`of_network`: f_emb is its own embedding layer, or nothing.

    Args:
        trunk: maps (B, 3, H, W) to (B, trunk.feature_dim).
        num_classes: identities of a classifier on z_id, for torchreid's own losses; 0 for none.
        loss: what a training forward returns, see :meth:`forward`.
        z_id_dim: width of the embedding z_id; that of ``f_emb`` where one is given.
        z_nui_dim: width of the nuisance latent z_nui; 0 for an autoencoder of z_id alone.
        hidden_dim: units of the hidden layer of f_emb, f_nui and f_dec.
        num_nuisance: heads of f_nui: one for all images, or one for each dataset or camera; 0 for
            no f_nui and f_dec, until :meth:`reset_nuisance` makes them.
        order: ``relu_bn`` (paper 4.2) or ``bn_relu``, see :class:`DenseHead`.
        generator: of the initial weights of all parts but the trunk; None for torch's global one.
        f_emb: the embedding layer to use; None for a new :class:`DenseHead`.

    Raises:
        ValueError: an impossible width, count, loss or order.
    """

    f_emb: DenseHead | OwnHead
    guess: CameraGuess | None
    f_nui: HeadBank
    f_dec: Decoder

    def __init__(
        self, trunk: Trunk, num_classes: int = 0, loss: str = "embae", z_id_dim: int = 128,
        z_nui_dim: int = 128, hidden_dim: int = 1024, num_nuisance: int = 1,
        order: str = "relu_bn", generator: torch.Generator | None = None,
        f_emb: OwnHead | None = None,
    ) -> None:
        super().__init__()
        for name, size, least in (("z_id_dim", z_id_dim, 1), ("z_nui_dim", z_nui_dim, 0),
                                  ("hidden_dim", hidden_dim, 1), ("num_nuisance", num_nuisance, 0)):
            if size < least:
                raise ValueError(f"{name} of an EmbAE model must be at least {least}, not {size}")
        if loss not in LOSSES:
            raise ValueError(f"loss of an EmbAE model is one of {', '.join(LOSSES)}, not {loss!r}")
        if num_classes < 0 or (num_classes == 0 and loss == "softmax"):
            raise ValueError(f"loss {loss!r} with {num_classes} classes: it needs at least one")
        self.loss, self.num_classes, self.order = loss, num_classes, order
        self.output, self.camera_parts = "z_id", ""
        self.camera_names: tuple[str, ...] = ()
        self.z_nui_dim, self.hidden_dim = z_nui_dim, hidden_dim
        self.trunk = trunk
        width = trunk.feature_dim
        if f_emb is None:
            self.head, self.z_id_dim = "dense", z_id_dim
            self.f_emb = DenseHead(width, hidden_dim, z_id_dim, order, generator)
        else:
            self.head = "none" if f_emb.fc is None else "own"
            self.z_id_dim, self.f_emb = f_emb.out_dim or width, f_emb
        self.register_module("f_nui", None)
        self.register_module("f_dec", None)
        self.register_module("guess", None)
        if num_nuisance:
            self.reset_nuisance(num_nuisance, generator)
        if num_classes:
            self.classifier = new_linear(self.z_id_dim, num_classes, generator)

    @classmethod
    def of_network(cls, name: str) -> EmbAE:
        """A Re-ID network as it is, with random weights and without an autoencoder.

        Its last embedding layer (OSNet's ``fc``, that of ResNet's ``fc512``) is f_emb and the
        feature before it h; z_id, the network's own evaluation feature, is what it returns.

        Args:
            name: see :func:`build_network`, whose errors apply.
        """
        trunk, fc = build_network(name)
        return cls(trunk, num_nuisance=0, f_emb=OwnHead(fc))

    @classmethod
    def of_trunk(cls, trunk: Trunk) -> EmbAE:
        """A trunk whose pooled feature is itself the embedding, as in Zheng et al. (2016)."""
        return cls(trunk, num_nuisance=0, f_emb=OwnHead(None))

    @property
    def feature_dim(self) -> int:
        """Width of what the model returns in eval mode, as torchreid's models name it."""
        h, z_id = self.trunk.feature_dim, self.z_id_dim
        return {"z_id": z_id, "joint": h + z_id, "h": h}[self.output]

    @property
    def feature_name(self) -> str:
        """Which feature of which network the embeddings are, in words."""
        return f"{self.output} of {self.trunk.name}"

    @property
    def cameras(self) -> int:
        """C, the cameras it has statistics of; its camera numbers are 0 to C − 1."""
        return len(self.camera_names)

    @property
    def architecture(self) -> str:
        """torchreid's name of the network, for :meth:`torchreid_state`; "" if it is none of its."""
        torchreids = self.head != "dense" and self.trunk.name.startswith("torchreid:")
        return self.trunk.name.removeprefix("torchreid:") if torchreids else ""

    @property
    def learned_output(self) -> str:
        """What learning on images compares: z_id where f_emb is part of the network, else h.

        A :class:`DenseHead` is small beside its trunk, and what it learned on the sources carries
        over worse than h does.
        """
        return "h" if self.head == "dense" else "z_id"

    def network(self) -> list[nn.Module]:
        """The modules between an image and :attr:`learned_output`."""
        return [self.trunk] if self.learned_output == "h" else [self.trunk, self.f_emb]

    def network_features(
        self, x: torch.Tensor, camids: torch.Tensor | None, common: bool = False
    ) -> torch.Tensor:
        """What learning on images compares, (B, d), of images (B, 3, H, W), with its graph.

        Args:
            x: normalised images.
            camids, common: see :func:`at_cameras`.
        """
        found = x
        for module in self.network():
            with at_cameras(module, camids, common):
                found = module(found)
        return found.float()

    def learn_cameras(self, parts: str, names: Sequence[str]) -> None:
        """Gives batch norm layers statistics for each camera, see :class:`CameraNorm`; in place.

        All start from what the layers have; see :func:`methods.camera_statistics.estimate`.

        Args:
            parts: ``heads`` (that of f_emb) or ``trunk`` (all of :meth:`network`).
            names: of the cameras; the i-th is camera number i.

        Raises:
            ValueError: another part, no batch norm in it, a name that comes twice or is no text,
                or a model that knows cameras already.
        """
        if parts not in CAMERA_PARTS or self.camera_parts:
            raise ValueError(f"statistics by camera of {parts!r}: must be one of "
                             f"{', '.join(CAMERA_PARTS)}, and the model have none yet (it has: "
                             f"{self.camera_parts or 'none'})")
        good = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        if not good or len(set(names)) < len(names):
            raise ValueError(
                f"the camera_names are {str(names)[:200]}, which must be different names"
            )
        modules = [self.f_emb] if parts == "heads" else self.network()
        with_norms = [module for module in modules if has_batch_norm(module)]
        for module in with_norms or modules:
            use_cameras(module, len(names))
        self.camera_parts, self.camera_names = parts, tuple(names)
        if parts == "trunk":
            self.guess = CameraGuess(len(names)).to(next(self.trunk.parameters()).device)

    def of_camera(self, camera: int) -> EmbAE:
        """A copy with ordinary batch norm, of one camera's statistics; −1 for one never seen."""
        plain = of_camera(self, camera)
        plain.forget_cameras()
        return plain

    def forget_cameras(self) -> None:
        """Makes it a model of no camera, once its layers are those of one; in place."""
        self.camera_parts, self.camera_names, self.guess = "", (), None

    def known_cameras(self, camids: torch.Tensor) -> torch.Tensor:
        """(N,) camera numbers, −1 where the model does not know the camera."""
        known = (camids >= 0) & (camids < self.cameras)
        return torch.where(known, camids, torch.full_like(camids, -1))

    def cameras_of(self, x: torch.Tensor, camids: torch.Tensor | None) -> torch.Tensor | None:
        """The cameras by whose statistics images are embedded: those named, or guessed.

        Args:
            x: (B, 3, H, W) normalised images.
            camids: (B,) or (1,) camera numbers; −1 or None where no camera is named.

        Returns:
            (B,) camera numbers, or ``camids`` of a model that cannot guess.
        """
        if self.guess is None:
            return None if camids is None else self.known_cameras(camids)
        named = torch.full_like(x[:, 0, 0, 0], -1, dtype=torch.long)
        if camids is not None:
            named = self.known_cameras(camids.to(x.device) + 0 * named)
        if not torch._C._get_tracing_state() and bool((named >= 0).all()):
            return named
        return torch.where(named < 0, self.guess(x), named)

    def camera_numbers(self, names: Sequence[str]) -> torch.Tensor:
        """(N,) numbers of the cameras of N names, −1 where the model does not know the camera."""
        table = {name: number for number, name in enumerate(self.camera_names)}
        return torch.tensor([table.get(name, -1) for name in names], dtype=torch.long)

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

    def embed_images(self, x: torch.Tensor, camids: torch.Tensor | None) -> torch.Tensor:
        """What :meth:`embed_features` gives of images (B, 3, H, W) of these cameras, in eval mode.

        ``camids`` (B,) are what :meth:`cameras_of` has found, and are not looked at again.
        """
        with at_cameras(self.trunk, camids):
            h = self.trunk(x)
        return self.embed_features(h, camids)

    def forward(
        self, x: torch.Tensor, camids: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor | None, torch.Tensor]:
        """Embeds images.

        The trunk runs in whatever precision autocast chooses, the rest in that of its weights.

        Args:
            x: (B, 3, H, W) normalised images, contiguous or channels_last.
            camids: (B,) camera numbers for a model with statistics by camera, see
                :meth:`camera_numbers`; −1 or None for a camera it has never seen. In training the
                batch must be sorted by them, and each be known.

        Returns:
            In eval mode what :meth:`embed_features` gives. In training what torchreid's engines
            expect: logits (B, num_classes) for loss ``softmax``, otherwise (logits, z_id), where
            logits are None without classes.
        """
        if not self.training:
            return self.embed_images(x, self.cameras_of(x, camids))
        with at_cameras(self.trunk, camids):
            h = self.trunk(x)
        with at_cameras(self.f_emb, camids):
            z_id = self.f_emb(h)
        with torch.autocast(z_id.device.type, enabled=False):
            logits = self.classifier(z_id) if self.num_classes else None
        return cast(torch.Tensor, logits) if self.loss == "softmax" else (logits, z_id)

    def reconstruct(self, z_id: torch.Tensor, z_nui: torch.Tensor) -> torch.Tensor:
        """ĥ (B, trunk.feature_dim) from z_id (B, z_id_dim) and z_nui (B, z_nui_dim)."""
        return cast(torch.Tensor, self.f_dec(torch.cat([z_id, z_nui], dim=1)))

    def reset_nuisance(self, num_nuisance: int, generator: torch.Generator | None = None) -> None:
        """Replaces f_nui by ``num_nuisance`` fresh heads, on the device, in the precision of f_emb.

        A model without an autoencoder gets f_dec as well. Optimisers of the old heads do not know
        the new ones.
        """
        width = self.trunk.feature_dim
        weight = next(chain(self.f_emb.parameters(), self.trunk.parameters()))
        mode = self.training if self.f_nui is None else self.f_nui.training
        sizes = (width, self.hidden_dim, self.z_nui_dim, self.order)
        self.f_nui = HeadBank(num_nuisance, *sizes, generator).to(weight).train(mode)
        if self.f_dec is None:
            latents = self.z_id_dim + self.z_nui_dim
            decoder = Decoder(latents, self.hidden_dim, width, generator)
            self.f_dec = decoder.to(weight).train(mode)

    def torchreid_state(self, camera: int = -1) -> dict[str, torch.Tensor]:
        """The network's weights under torchreid's own names, with one camera's statistics.

        Args:
            camera: its number; −1 for one that the model has never seen.

        Raises:
            ValueError: the network is not one of torchreid's (see :attr:`architecture`).
        """
        if not self.architecture:
            raise ValueError(f"a model with the trunk {self.trunk.name} and EmbAE's embedding "
                             "layer is none of torchreid's networks")
        trunk, f_emb = of_camera(self.trunk, camera), of_camera(self.f_emb, camera)
        weights = {**trunk.net.state_dict(), **f_emb.state_dict()}
        return {key: value.detach().cpu().clone() for key, value in weights.items()}

    def spec(self) -> dict[str, Any]:
        """What :meth:`from_spec` needs to build a model of the same shape, in plain values."""
        heads = 0 if self.f_nui is None else self.f_nui.num_heads
        spec: dict[str, Any] = {"trunk": self.trunk.name, "num_nuisance": heads}
        spec |= {key: getattr(self, key) for key in _SPEC_KEYS if key not in spec}
        if self.head != "dense":
            spec["head"] = self.head
        if self.output != "z_id":
            spec["output"] = self.output
        if self.camera_parts:
            spec["camera_parts"] = self.camera_parts
            spec["camera_names"] = list(self.camera_names)
            spec["camera_guess"] = self.guess is not None
        return spec

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> EmbAE:
        """A model of the shape that ``spec`` describes, its weights random. Nothing is fetched.

        The global random state is left as it is.

        Raises:
            ValueError: missing or unknown entries, or impossible values.
        """
        generator = torch.Generator().manual_seed(0)
        if set(spec) == {"trunk"}:  # of earlier releases: a trunk alone
            return cls.of_trunk(build_trunk(str(spec["trunk"]), generator=generator))
        more = {"head", "output", "camera_parts", "camera_names", "cameras", "camera_guess"}
        missing = [key for key in _SPEC_KEYS if key not in spec]
        unknown = sorted(map(str, set(spec) - {*_SPEC_KEYS} - more))
        if missing or unknown:
            raise ValueError(
                f"not the description of an EmbAE model: missing {missing}, unknown {unknown}"
            )
        for key in (*_COUNTS, "cameras"):
            if type(spec.get(key, 0)) is not int:
                raise ValueError(
                    f"{key} of an EmbAE model must be a whole number, not {spec[key]!r}"
                )
        for key, words in (("output", OUTPUTS), ("head", HEADS)):
            if spec.get(key, words[0]) not in words:
                raise ValueError(
                    f"{key} of an EmbAE model is one of {', '.join(words)}, not {spec[key]!r}"
                )
        name, f_emb = str(spec["trunk"]), None
        if spec.get("head", "dense") == "dense":
            trunk = build_trunk(name, generator=generator)
        else:
            trunk, fc = build_network(name, generator)
            if fc is None and spec["head"] == "own":
                raise ValueError(f"{name} has no embedding layer of its own")
            f_emb = OwnHead(fc if spec["head"] == "own" else None)
        sizes = {key: spec[key] for key in _SPEC_KEYS if key != "trunk"}
        model = cls(trunk, **sizes, generator=generator, f_emb=f_emb)
        model.output = spec.get("output", "z_id")
        if spec.get("camera_parts"):
            names = spec.get("camera_names", [str(n) for n in range(spec.get("cameras", 0))])
            model.learn_cameras(str(spec["camera_parts"]), names)
            model.guess = model.guess if spec.get("camera_guess") else None
        return model


_COUNTS = ("num_classes", "z_id_dim", "z_nui_dim", "hidden_dim", "num_nuisance")
_SPEC_KEYS = ("trunk", "loss", "order", *_COUNTS)
