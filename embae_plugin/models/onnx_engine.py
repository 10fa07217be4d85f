"""Networks run by onnxruntime, which fuses batch norms and activations into convolutions.

A network is traced once for its architecture and input size. Each set of weights, as those of a
camera or of another round of training, then only replaces the numbers in that graph.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
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
            image = torch.zeros(2, 3, *size)
            try:
                _graphs[key] = traced(net, {"images": image}, "features", fused=False)
            except Exception as error:  # of any layer that ONNX lacks, each in its own way
                logger.info("this network has no ONNX graph: %s", str(error).splitlines()[:1])
                _graphs[key] = None
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
    # Each session would keep the most memory that it ever needed: four copies of OSNet x0.25 kept
    # 2 GB after eight threads had used them. Together they keep 0.5 GB.
    options.add_session_config_entry("session.use_env_allocators", str(int(_shared_memory())))
    options.enable_mem_pattern = False  # planned for each size of a batch, of which there are many
    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(filled.SerializeToString(), options, providers)
    except Exception as error:  # onnxruntime's own classes, straight below Exception
        logger.info("onnxruntime does not run %s: %s", name, error)
        return None

    def run(x: torch.Tensor) -> torch.Tensor:
        [features] = session.run(None, {"images": x.detach().float().contiguous().numpy()})
        return torch.from_numpy(features)

    return run


@cache
def _shared_memory() -> bool:
    """Whether sessions of this process can take memory from one place, which is made ready."""
    import onnxruntime as ort

    try:
        kind, use = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
        ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, use), None)
    except Exception as error:  # onnxruntime's own classes, straight below Exception
        return "already" in str(error)  # another library made it
    return True


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the warnings of torch's exporter, and the graph that it prints where it fails.

    It switches its log on at every export, since it asks a function for its truth instead of its
    answer. Call it in one thread at a time.
    """
    switch = "_jit_set_onnx_log_enabled"
    before = getattr(torch._C, switch, lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before(False)
        setattr(torch._C, switch, lambda _: None)
        try:
            yield
        finally:
            setattr(torch._C, switch, before)


def traced(net: nn.Module, inputs: Mapping[str, torch.Tensor], output: str, fused: bool) -> Any:
    """A network as an ONNX model that takes batches of any size.

    Args:
        net: in eval mode.
        inputs: a batch of two of each input, by its name in the model.
        output: name of the output.
        fused: the exporter folds batch norms, and stores weights once that are equal. Otherwise
            all layers and weights stay, under their own names: fresh batch norms are equal, and
            one would stand for others.

    Raises:
        Exception: of many kinds, where a layer has no ONNX form.
    """
    import onnx

    modes, axes = torch.onnx.TrainingMode, {name: {0: "batch"} for name in (*inputs, output)}
    # The exporter goes by the flag of the whole; PRESERVE leaves the layers, which have theirs.
    net.training = not fused
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet_exporter(), torch.no_grad():
            path = Path(folder) / "net.onnx"
            # The newer exporter of torch takes minutes where this one takes seconds.
            torch.onnx.export(
                net, tuple(inputs.values()), path, input_names=list(inputs),
                output_names=[output], dynamic_axes=axes, dynamo=False, opset_version=OPSET,
                training=modes.EVAL if fused else modes.PRESERVE, do_constant_folding=fused,
            )
            return onnx.load(str(path))
    finally:
        net.training = False
