"""EmbAE models under names of their own, built as torchreid builds its models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk

TRUNK_OF_MODEL = {
    "embae_mobilenetv1": "mobilenetv1",
    "embae_mobilenetv2_x1_0": "torchreid:mobilenetv2_x1_0",
    "embae_resnet50": "torchreid:resnet50",
    "embae_osnet_x1_0": "torchreid:osnet_x1_0",
}


def _factory(name: str) -> Callable[..., EmbAE]:
    def build(
        num_classes: int,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = True,
        **options: Any,
    ) -> EmbAE:
        trunk = build_trunk(TRUNK_OF_MODEL[name], "imagenet" if pretrained else "")
        return EmbAE(trunk, num_classes, loss, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""EmbAE on the trunk {TRUNK_OF_MODEL[name]}.

    Args:
        num_classes: identities of the classifier; 0 for none.
        loss: ``softmax``, ``triplet`` or ``embae``.
        pretrained: start from ImageNet weights, fetched on first use.
        use_gpu: has no effect, as in torchreid's own models.
        **options: further arguments of :class:`EmbAE`.

    Raises:
        ValueError, FileNotFoundError: see :func:`build_trunk` and :class:`EmbAE`.
    """
    return build


(embae_mobilenetv1, embae_mobilenetv2_x1_0, embae_resnet50, embae_osnet_x1_0) = map(
    _factory, TRUNK_OF_MODEL
)
