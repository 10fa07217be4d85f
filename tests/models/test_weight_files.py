"""Weights of every kind of file are read by their bare names; everything else is refused."""

from __future__ import annotations

import os
import pickle
import re
import struct
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from embae_plugin.models.weight_files import bare_state, misfit, read_file, read_state, shapes_of

STATE = {
    "a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.5]),
    "norm.num_batches_tracked": torch.tensor(7),
}
NAMES = ("numpy.core.multiarray", "numpy._core.multiarray")


def same(state: object) -> bool:
    return (
        isinstance(state, dict)
        and state.keys() == STATE.keys()
        and all(torch.equal(state[key], STATE[key]) for key in STATE)
    )


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in STATE.items()}


def written(path: Path, content: object, form: str) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


# --- what is read -----------------------------------------------------------------------------

CONTENTS = {
    "bare": STATE,
    "state_dict": {"state_dict": STATE, "epoch": 3},
    "model": {"model": STATE, "optimizer": {"state": {}, "param_groups": []}},
    "tutorial": {"model_state_dict": STATE, "loss": torch.tensor(0.5)},
    "some name": {"net": STATE, "acc": 0.5},
    "nested": {"state_dict": {"model": STATE}},
    "DataParallel": prefixed("module."),
    "compile": prefixed("_orig_mod."),
    "both": {"state_dict": prefixed("module._orig_mod.")},
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_torch_files_of_all_kinds_are_read(kind, form, tmp_path):
    path = written(tmp_path / "w.pth", CONTENTS[kind], form)
    assert same(read_state(path)) and same(read_state(str(path)))


def test_what_torchs_own_wrappers_save_is_read(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    wrapped = torch.compile(nn.DataParallel(net), backend="eager")
    torch.save(wrapped.state_dict(), tmp_path / "w.pth")
    assert next(iter(wrapped.state_dict())) == "_orig_mod.module.0.weight"
    assert list(read_state(tmp_path / "w.pth")) == list(net.state_dict())


def test_safetensors_are_read(tmp_path):
    save_file(prefixed("module."), tmp_path / "model.safetensors")
    assert same(read_state(tmp_path / "model.safetensors"))


def test_the_home_folder_may_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "w.pth")
    assert same(read_state("~/w.pth"))


def test_published_weights_are_read(imagenet_weights):
    state = read_state(imagenet_weights / "osnet_x0_25_msmt17.pth")
    assert len(state) == 567 and state["classifier.weight"].shape == (1041, 512)
    assert state["fc.0.weight"].dtype == torch.float32


# --- numpy scalars, of any numpy --------------------------------------------------------------


def torchreids_checkpoint() -> dict[str, object]:
    """What torchreid's ``save_checkpoint`` writes, ``multi_step`` schedule included."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, amsgrad=True)
    net(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    return {
        "state_dict": STATE, "epoch": 7, "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(), "rank1": np.float32(0.25), "mAP": np.float64(0.125),
        "more": [np.int64(3), np.int32(-4), np.float16(0.5), np.bool_(True), np.uint8(9)],
    }


def renamed(path: Path, name: str) -> None:
    """Rewrites the pickle in ``path`` as a numpy would write it that calls the module ``name``."""

    def rewrite(pickled: bytes) -> bytes:
        changed, count = re.subn(rb"cnumpy\._?core\.multiarray\nscalar\n",
                                 f"c{name}\nscalar\n".encode(), pickled)
        assert count
        return changed

    if not zipfile.is_zipfile(path):
        path.write_bytes(rewrite(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as old:
        parts = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for part, content in parts.items():
            new.writestr(part, rewrite(content) if part.endswith("data.pkl") else content)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", NAMES)
def test_numpy_scalars_of_every_numpy_are_read(name, form, tmp_path):
    content = torchreids_checkpoint()
    path = written(tmp_path / "model.pth.tar-7", content, form)
    renamed(path, name)
    assert f"{name}\nscalar".encode() in path.read_bytes()
    back = read_file(path)
    assert (back["rank1"], back["mAP"], back["more"]) == (0.25, 0.125, content["more"])
    assert [type(one) for one in back["more"]] == [type(one) for one in content["more"]]
    assert back["scheduler"]["milestones"] == content["scheduler"]["milestones"]
    assert same(read_state(path))


def python2s_scalar() -> bytes:
    """``{"mAP": numpy.float64(0.7)}`` as Python 2 pickles it: the bytes are a string."""
    number = struct.pack("<d", 0.7)
    with pytest.raises(UnicodeDecodeError):
        number.decode()
    dtype = (b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
             b"J\xff\xff\xff\xffK\x00tb")
    scalar = b"cnumpy.core.multiarray\nscalar\n" + dtype + b"U\x08" + number + b"\x86R"
    return b"\x80\x02}U\x03mAP" + scalar + b"s."


def test_numpy_scalars_that_python_2_wrote_are_read(tmp_path):
    written(tmp_path / "old.pth.tar", {"mAP": 0.0}, "legacy")
    whole = (tmp_path / "old.pth.tar").read_bytes()
    body = pickle.dumps({"mAP": 0.0}, protocol=2)
    assert whole.count(body) == 1
    (tmp_path / "old.pth.tar").write_bytes(whole.replace(body, python2s_scalar()))
    warnings.simplefilter("error")
    assert read_file(tmp_path / "old.pth.tar") == {"mAP": 0.7}


def test_what_others_allow_torch_to_load_stays_allowed(tmp_path):
    torch.save(torchreids_checkpoint(), tmp_path / "w.pth")
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([np.dtype]):
        read_file(tmp_path / "w.pth")
        assert np.dtype in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == before


def test_threads_do_not_take_the_permission_from_each_other(tmp_path):
    torch.save({**torchreids_checkpoint(), "rows": [np.float64(i) for i in range(300)]},
               tmp_path / "w.pth")
    failed: list[Exception] = []

    def read() -> None:
        try:
            for _ in range(10):
                read_file(tmp_path / "w.pth")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failed == []


# --- what is refused --------------------------------------------------------------------------


class Bomb:
    """Runs a command where a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_not_run(how, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"extra": Bomb(mark)}, protocol=2))
    else:
        written(path, {"state_dict": STATE, "extra": Bomb(mark)}, how)
    with pytest.raises(ValueError, match=r"w\.pth holds Python objects besides weights \(\w+\.mk"):
        read_state(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # it would have been


def test_a_pickled_network_is_named_by_its_class(tmp_path):
    torch.save({"model": nn.Linear(2, 2), "epoch": 1}, tmp_path / "yolo.pt")
    with pytest.raises(ValueError, match=r"\(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)"):
        read_state(tmp_path / "yolo.pt")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.95, 0.9999])
def test_a_file_cut_short_is_named(form, share, tmp_path):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    many = {f"layer{i}": torch.randn(40, 40) for i in range(10)}
    save_file(many, path) if form == "safetensors" else written(path, many, form)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=rf"w\.{path.suffix[1:]} is .*(damaged|no checkpoint)"):
        read_state(path)


JUNK = [b"<html>404 Not Found</html>\n" * 20, b"\x00" * 500, b"PK\x03\x04" + b"x" * 99,
        b"\x80\x02}q\x00.", b"\x80\x02X\x05", b"ONNX"]


@pytest.mark.parametrize("content", JUNK)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weight_file_is_a_value_error_of_one_line(content, suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\{suffix} ") as caught:
        read_state(path)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_torchscript_program_is_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is giving it up
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(ValueError, match=r"w\.pt is a TorchScript program; name the checkpoint"):
        read_state(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*none\.pth does not exist"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is a folder; name the weight file in it"):
        read_state(tmp_path)


def optimizer_state() -> dict[str, object]:
    return torchreids_checkpoint()["optimizer"]  # type: ignore[return-value]


NO_NETWORK = {
    "list": ([1, 2], "no weights but a list"),
    "tensor": (torch.zeros(3), "no weights but a Tensor"),
    "empty": ({}, "no weights: it is empty"),
    "empty inside": ({"model": {}, "epoch": 1}, "no weights: it is empty"),
    "optimizer": (optimizer_state(), "no weights but the state of an optimizer"),
    "optimizer inside": ({"optimizer": optimizer_state(), "epoch": 3}, "no weights, only opt"),
    "settings": ({"lr": 0.1, "names": ["a"]}, "no weights, only lr, names"),
    "two networks": ({"generator": STATE, "critic": STATE}, "no weights, only generator, critic"),
    "other entries": ({**STATE, "epoch": 3}, "something else than weights under epoch:"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "something else than weights under w:"),
    "complex": ({"w": torch.zeros(3, dtype=torch.complex64)}, "something else than weights"),
    "meta": ({"w": torch.zeros(3, device="meta")}, "something else than weights under w:"),
    "nan": ({**STATE, "w": torch.tensor([1.0, float("nan")])}, "NaN or infinite weights: w. Tr"),
    "infinite": ({**STATE, "w": torch.tensor(float("inf"))}, "NaN or infinite weights: w. Tr"),
    "twice": ({**STATE, **prefixed("module.")}, "weights twice"),
}


@pytest.mark.parametrize("kind", NO_NETWORK)
def test_a_file_without_the_weights_of_a_network_says_what_it_holds(kind, tmp_path):
    content, message = NO_NETWORK[kind]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth holds {message}") as caught:
        read_state(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_bare_state_is_not_looked_into():
    assert bare_state("w.pth", {"model": {"module.a": STATE["a.bias"], "b": None}}) == {
        "a": STATE["a.bias"], "b": None
    }


# --- comparing --------------------------------------------------------------------------------


def test_differences_are_counted_and_the_first_named():
    own = {"a": (2, 3), "b": (1,), "c": (4,)}
    assert misfit(own, dict(own)) == ""
    assert misfit(own, {"a": (2, 4), "b": (1,), "x": ()}) == (
        "1 missing (c); 1 unexpected (x); 1 of another shape (a (2, 4) instead of (2, 3))"
    )
    assert misfit({}, {f"x{i}": () for i in range(9)}) == "9 unexpected (x0, x1, x2, x3, …)"


def test_counters_of_batch_norm_have_no_part_in_a_comparison():
    assert shapes_of(STATE) == {"a.weight": (2, 3), "a.bias": (1,)}
