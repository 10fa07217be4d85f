"""A model with all that is needed to use it: its input, its cameras, where it comes from.

Every command that takes ``--checkpoint`` and everything in :mod:`embae_plugin.reid` reads a
model through here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embae_plugin.models.checkpoint_file import (
    check_finite,
    check_kinds,
    load_checkpoint,
    save_checkpoint,
)
from embae_plugin.models.pooled import ReIDModel, model_from_spec

Triple = tuple[float, float, float]

ADAPTED = "adapted.pth"  # what `embae adapt` writes last into its folder
STAGE = "last.pth"  # what a stage of `embae train` writes into its own
LARGEST = 10_000  # pixels of an input's side; more is a mistake that no memory holds


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
        if not (1 <= self.height <= LARGEST and 1 <= self.width <= LARGEST):
            raise ValueError(f"an input of {self.height} x {self.width} pixels is impossible")
        values = (*self.norm_mean, *self.norm_std)
        triples = len(self.norm_mean) == len(self.norm_std) == 3
        if not triples or not all(map(math.isfinite, values)) or min(self.norm_std) <= 0:
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
        """From numbers of any kind.

        Raises:
            ValueError: no numbers, no whole ones of pixels, or impossible ones.
        """
        try:
            mean, std = (tuple(float(value) for value in three) for three in (norm_mean, norm_std))
            sizes = operator.index(height), operator.index(width)
        except (TypeError, ValueError):
            raise ValueError(
                f"an input of height {height!r}, width {width!r}, norm_mean {norm_mean!r} and "
                f"norm_std {norm_std!r}: sizes are whole numbers of pixels, the others 3 numbers"
            ) from None
        return cls(*sizes, mean, std)  # type: ignore[arg-type]


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
    tall, wide = height or known.get("height", 0), width or known.get("width", 0)
    if any(isinstance(side, int) and side == 0 for side in (tall, wide)):
        raise ValueError(
            f"{path} was written by a release that did not keep the size of the network's input: "
            "pass --height and --width as in its training (data.height and data.width; the "
            "paper's are 256 and 128)"
        )
    mean = known.get("norm_mean", trunk.norm_mean)
    try:
        return InputSpec.make(tall, wide, mean, known.get("norm_std", trunk.norm_std))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _camera_names(path: Path, names: Any) -> tuple[str, ...]:
    good = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if not good or len(set(names)) < len(names):
        raise ValueError(f"{path} is damaged: its camera_names are {names!r}, no different names")
    return tuple(names)


def _build(path: Path, spec: dict[str, Any], saved: dict[Any, Any]) -> ReIDModel:
    """The model of a spec with its weights."""
    try:
        model = model_from_spec(spec)
    except (ValueError, RuntimeError, TypeError) as error:  # torch's, of sizes beyond memory
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"{path}: no model can be built as it says: {reason}") from None
    state, own = {str(key): value for key, value in saved.items()}, model.state_dict()
    check_kinds(path, state, own)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: its weights are not those of its model: {reason}") from None
    check_finite(path, state, own)
    return model.eval()


def load_bundle(path: str | Path, height: int = 0, width: int = 0) -> Bundle:
    """Reads a model that `embae adapt` or `embae train` wrote.

    Args:
        path: a checkpoint file, the folder of `embae adapt`, or the folder of one stage.
        height, width: of the input in pixels, for checkpoints that do not say; 0 takes theirs.

    Raises:
        FileNotFoundError, ValueError: not there, not an EmbAE checkpoint, damaged, with weights
            that are no numbers, of a stage that was not finished, or without a size and none given.
    """
    file = find_checkpoint(path)
    payload = load_checkpoint(file)
    if not isinstance(payload.get("spec"), dict) or not isinstance(payload.get("model"), dict):
        raise ValueError(f"{file} holds no model")
    if payload.get("done", True) is not True:
        raise ValueError(
            f"{file} is of a stage that was not finished: give the command that wrote it again, "
            "it goes on where it stopped"
        )
    cameras = _camera_names(file, payload.get("camera_names", ()))
    model = _build(file, payload["spec"], payload["model"])
    spec = _input_of(file, payload.get("input"), model.trunk, height, width)
    about = payload.get("about")
    if not isinstance(about, dict) or not about:
        about = {"stage": str(payload.get("stage", ""))}
    return Bundle(model, spec, cameras, dict(about))


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
