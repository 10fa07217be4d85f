"""ONNX and TorchScript files of a model, checked before they take their place."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from embae_plugin.atomic_file import replacing
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.camera_norm import knows_cameras
from embae_plugin.models.onnx_engine import traced

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Runner = Callable[[Floats, NDArray[np.int64]], Floats]
"""(B, 3, H, W) images in [0, 1] and (B,) cameras, which may be ignored, to embeddings (B, d)."""

EXTRA_FILE = "embae.json"  # in a TorchScript file
_jit: Any = torch.jit  # partly untyped


class ImagesToEmbeddings(nn.Module):
    """A model with its preprocessing: images (B, 3, H, W) in [0, 1] to embeddings (B, d).

    The normalisation is in the graph, where nobody can get it wrong.

    Args:
        bundle: the model; put into eval mode.
        normalize: scale embeddings to length 1.
        flip: average each image's embedding with its mirror image's, before that.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, bundle: Bundle, normalize: bool = True, flip: bool = False) -> None:
        super().__init__()
        self.model = bundle.model.eval().requires_grad_(False)
        self.normalize, self.flip, self.cameras = normalize, flip, knows_cameras(bundle.model)
        for name, values in (("mean", bundle.input.norm_mean), ("std", bundle.input.norm_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.size = bundle.input.height, bundle.input.width
        self.eval()  # its own flag, too: torch.onnx puts the model back into the mode it has

    def forward(self, images: torch.Tensor, camera: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (B, d) of images (B, 3, H, W), float in [0, 1].

        ``camera`` (B,) int64 holds numbers of the model's cameras, −1 for one it has never seen;
        it is read only for a model that knows cameras apart.
        """
        x = (images - self.mean) / self.std
        # Of an image and its mirror image alike.
        camids = self.model.cameras_of(x, camera) if self.cameras else None
        z = self.model.embed_images(x, camids).float()
        if self.flip:
            z = (z + self.model.embed_images(x.flip(3), camids).float()) / 2
        return F.normalize(z, dim=1) if self.normalize else z

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to trace with: two images, and cameras where the graph takes them."""
        images = torch.rand(2, 3, *self.size, generator=torch.Generator().manual_seed(0))
        return (images, torch.tensor([0, -1])) if self.cameras else (images,)


def write_onnx(path: Path, graph: ImagesToEmbeddings, about: Mapping[str, object]) -> None:
    """An ONNX file whose ``metadata_props`` hold ``about``, each value as JSON.

    Raises:
        ValueError: the network has an operation that ONNX lacks.
    """
    import onnx

    inputs = dict(zip(("images", "camera"), graph.example(), strict=False))
    try:
        model = traced(graph, inputs, "embeddings", fused=not graph.cameras)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(
            f"the trunk {about['trunk']} has no ONNX form: {error}. Try --format torchscript"
        ) from error
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
    onnx.helper.set_model_props(model, texts)
    model.doc_string = "person crops to Re-ID embeddings"
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_torchscript(path: Path, graph: ImagesToEmbeddings, about: Mapping[str, object]) -> None:
    """A TorchScript file that holds ``about`` as JSON in the extra file ``embae.json``."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # remarks on values that a fixed input size fixes
        program = _jit.trace(graph, graph.example(), check_trace=False)
        program.save(str(path), _extra_files={EXTRA_FILE: json.dumps(about)})


def run_onnx(path: Path) -> Runner:
    """Runs an ONNX file with onnxruntime.

    Raises:
        ValueError: no such file, or one that it cannot run.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, straight below Exception
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no ONNX file that can be run: {reason}") from None
    taken = {one.name for one in session.get_inputs()}

    def run(images: Floats, camera: NDArray[np.int64]) -> Floats:
        feed = {"images": images, "camera": camera}
        [embeddings] = session.run(["embeddings"], {name: feed[name] for name in taken})
        return np.asarray(embeddings, dtype=np.float32)

    return run


def run_torchscript(path: Path) -> Runner:
    """Runs a TorchScript file.

    Raises:
        ValueError: no such file, or one that this package has not written.
    """
    extra = {EXTRA_FILE: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # what follows is torch's own stack
        raise ValueError(f"{path} is no TorchScript file of this package: {reason}") from None
    takes_camera = bool(json.loads(extra[EXTRA_FILE])["camera_names"])

    @torch.inference_mode()
    def run(images: Floats, camera: NDArray[np.int64]) -> Floats:
        rest = (torch.from_numpy(camera),) if takes_camera else ()
        return np.asarray(module(torch.from_numpy(images), *rest).numpy(), dtype=np.float32)

    return run


FORMATS = {"onnx": (write_onnx, run_onnx), "torchscript": (write_torchscript, run_torchscript)}


def export_model(
    bundle: Bundle, path: str | Path, form: str, normalize: bool = True, flip: bool = False,
    check: Callable[[Runner], None] | None = None,
) -> dict[str, object]:
    """Writes a model in a form that other programs run.

    Args:
        path: of the file; it appears only when it is complete and checked.
        form: a name in :data:`FORMATS`.
        normalize, flip: as in :class:`ImagesToEmbeddings`; flipping takes twice the time.
        check: called with the exported file's runner; raises if it is not as it should be.

    Returns:
        what the file says of itself: all that its user must know, in plain values.

    Raises:
        ValueError: an unknown form, a network that cannot be exported, or what ``check`` raises.
    """
    from embae_plugin import __version__

    if form not in FORMATS:
        raise ValueError(f"export format {form!r}: must be one of {', '.join(FORMATS)}")
    write, load = FORMATS[form]
    graph, spec = ImagesToEmbeddings(bundle, normalize, flip), bundle.input
    about: dict[str, object] = {
        "embae_version": __version__,
        "input": "float32 (batch, 3, height, width), R G B, values from 0 to 1, not normalised",
        "height": spec.height, "width": spec.width,
        "mean": list(spec.norm_mean), "std": list(spec.norm_std),
        "preprocessing_in_graph": True, "embedding_dim": bundle.model.feature_dim,
        "normalized": normalize, "flip_averaged": flip, "trunk": bundle.model.trunk.name,
        "camera_names": list(bundle.camera_names) if graph.cameras else [],
    }
    with replacing(path) as draft:
        write(draft, graph, about)
        if check is not None:
            check(load(draft))
    logger.info("%s: %s, %s", path, form, ", ".join(f"{k} {v}" for k, v in about.items()))
    return about
