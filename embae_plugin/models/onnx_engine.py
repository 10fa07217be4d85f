"""Networks run by onnxruntime, which fuses batch norms and activations into convolutions.

A network is traced once for its architecture and input size. Each set of weights, as those of a
camera or of another round of training, then only replaces the numbers in that graph.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

OPSET = 17
_tracing = threading.Lock()  # torch's exporter keeps global state
_graphs: dict[tuple[Any, ...], Any] = {}  # None where there is no graph


def onnx_engine(
    name: str, net: nn.Module, size: tuple[int, int]
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A function from B > 0 images (B, 3, H, W) to what ``net`` makes of them, (B, D), on the CPU.

    Args:
        name: of the architecture.
        net: in eval mode, on the CPU, float32.
        size: (height, width) of the images.

    Returns:
        None where onnxruntime is not installed or cannot run the network; torch can.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    state = {key: value for key, value in net.state_dict().items() if value.is_floating_point()}
    if any(value.dtype != torch.float32 for value in state.values()):
        return None
    key = (name, size, tuple((key, tuple(value.shape)) for key, value in state.items()))
    with _tracing:
        if key not in _graphs:
            _graphs[key] = _traced(net, size)
        graph = _graphs[key]
    if graph is None:
        return None
    filled = onnx.ModelProto()
    filled.CopyFrom(graph)
    for tensor in filled.graph.initializer:
        if tensor.name in state:
            tensor.raw_data = state[tensor.name].contiguous().numpy().tobytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    # Threads that wait for work in a loop would take the time of other processes and sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            filled.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own classes, straight below Exception
        logger.info("onnxruntime does not run %s: %s", name, error)
        return None

    def run(x: torch.Tensor) -> torch.Tensor:
        [features] = session.run(None, {"images": x.detach().float().contiguous().numpy()})
        return torch.from_numpy(features)

    return run


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without the warnings of torch's exporter, and the graph that it prints where it fails.

    It switches its log on at every export, since it asks a function for its truth instead of its
    answer. Call it in one thread at a time.
    """
    switch = "_jit_set_onnx_log_enabled"
    before = getattr(torch._C, switch, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if before is None:
            yield
            return
        before(False)
        setattr(torch._C, switch, lambda _: None)
        try:
            yield
        finally:
            setattr(torch._C, switch, before)


def _traced(net: nn.Module, size: tuple[int, int]) -> Any:
    """The network's graph, with its weights under their own names; None if there is none."""
    import onnx

    image = torch.zeros(2, 3, *size)
    # In eval mode the exporter fuses layers, and stores weights once that are equal, as those of
    # fresh batch norms are: a name would stand for others. It goes by the flag of the whole alone,
    # and PRESERVE leaves the layers, which have theirs, in eval mode.
    modes, net.training = torch.onnx.TrainingMode, True
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_exporter(), torch.no_grad():
            path = Path(folder) / "net.onnx"
            torch.onnx.export(
                net, (image,), path, input_names=["images"], output_names=["features"],
                dynamic_axes={"images": {0: "batch"}, "features": {0: "batch"}}, dynamo=False,
                opset_version=OPSET, training=modes.PRESERVE, do_constant_folding=False,
            )  # fmt: skip
            return onnx.load(str(path))
    except Exception as error:  # of any layer that ONNX lacks, each in its own way
        logger.info("this network has no ONNX graph: %s", str(error).splitlines()[:1])
        return None
    finally:
        net.training = False
