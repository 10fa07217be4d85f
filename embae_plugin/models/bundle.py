"""A model with all that is needed to use it: its input, its cameras, where it comes from.

Every command that takes ``--checkpoint`` and everything in :mod:`embae_plugin.reid` reads a
model through here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embae_plugin.models.checkpoint_file import load_checkpoint, save_checkpoint
from embae_plugin.models.pooled import ReIDModel, model_from_spec

Triple = tuple[float, float, float]

ADAPTED = "adapted.pth"  # what `embae adapt` writes last into its folder
STAGE = "last.pth"  # what a stage of `embae train` writes into its own


@dataclass(frozen=True)
class InputSpec:
    """What the network takes.

    Attributes:
        height, width: pixels.
        norm_mean, norm_std: what images in [0, 1] are normalised by, for R, G and B.
    """

    height: int
    width: int
    norm_mean: Triple
    norm_std: Triple

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an input of {self.height} x {self.width} pixels is impossible")
        if len(self.norm_mean) != 3 or len(self.norm_std) != 3 or min(self.norm_std) <= 0:
            raise ValueError(
                f"norm_mean {self.norm_mean} and norm_std {self.norm_std} must be 3 values each, "
                "std > 0"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def make(
        cls, height: int, width: int, norm_mean: Sequence[float], norm_std: Sequence[float]
    ) -> InputSpec:
        """From numbers of any kind."""
        mean, std = (tuple(float(value) for value in triple) for triple in (norm_mean, norm_std))
        return cls(int(height), int(width), mean, std)  # type: ignore[arg-type]


@dataclass
class Bundle:
    """A model ready for use.

    Attributes:
        model: in eval mode, on the CPU.
        input: what it takes.
        camera_names: the cameras it was adapted to; the i-th is camera number i of the model.
        about: plain values: where it comes from.
    """

    model: ReIDModel
    input: InputSpec
    camera_names: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that ``path`` means: itself, or the one in that folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a folder of several stages, of which one must be named.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"checkpoint {path} does not exist")
        return path
    for name in (ADAPTED, STAGE):
        if (path / name).is_file():
            return path / name
    stages = sorted(found.parent.name for found in path.glob(f"*/{STAGE}"))
    if stages:
        raise ValueError(
            f"{path} holds several stages; name one of them: "
            + ", ".join(str(path / stage) for stage in stages)
        )
    raise FileNotFoundError(
        f"{path} holds neither {ADAPTED} (of embae adapt) nor {STAGE} (of a stage of embae train)"
    )


def _input_of(path: Path, saved: Any, trunk: Any, height: int, width: int) -> InputSpec:
    """The saved input, with the size replaced where one is given."""
    known = saved if isinstance(saved, Mapping) else {}
    tall, wide = height or known.get("height"), width or known.get("width")
    if not tall or not wide:
        raise ValueError(
            f"{path} was written by a release that did not keep the size of the network's input: "
            "pass --height and --width as in its training (data.height and data.width; the "
            "paper's are 256 and 128)"
        )
    mean = known.get("norm_mean", trunk.norm_mean)
    return InputSpec.make(tall, wide, mean, known.get("norm_std", trunk.norm_std))


def load_bundle(path: str | Path, height: int = 0, width: int = 0) -> Bundle:
    """Reads a model that `embae adapt` or `embae train` wrote.

    Args:
        path: a checkpoint file, the folder of `embae adapt`, or the folder of one stage.
        height, width: of the input in pixels, for checkpoints that do not say; 0 takes theirs.

    Raises:
        FileNotFoundError, ValueError: not there, not an EmbAE checkpoint, damaged, of a stage
            that was not finished, or without a size and none given.
    """
    file = find_checkpoint(path)
    payload = load_checkpoint(file)
    if not isinstance(payload.get("spec"), dict) or not isinstance(payload.get("model"), dict):
        raise ValueError(f"{file} holds no model")
    if not payload.get("done", True):
        raise ValueError(
            f"{file} is of a stage that was not finished: give the command that wrote it again, "
            "it goes on where it stopped"
        )
    model = model_from_spec(payload["spec"])
    try:
        model.load_state_dict(payload["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{file}: its weights are not those of its model: {reason}") from None
    model.eval()
    spec = _input_of(file, payload.get("input"), model.trunk, height, width)
    about = payload.get("about") or {"stage": str(payload.get("stage", ""))}
    return Bundle(model, spec, tuple(payload.get("camera_names", ())), dict(about))


def save_bundle(path: str | Path, bundle: Bundle) -> None:
    """Writes a bundle atomically; :func:`load_bundle` reads it.

    Raises:
        OSError: it cannot be written; a file that was there is untouched.
    """
    payload = {
        "stage": "adapted",
        "done": True,
        "spec": bundle.model.spec(),
        "model": {key: value.cpu() for key, value in bundle.model.state_dict().items()},
        "input": bundle.input.as_dict(),
        "camera_names": list(bundle.camera_names),
        "about": dict(bundle.about),
    }
    save_checkpoint(path, payload)
