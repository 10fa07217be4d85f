"""Checkpoints are whole or absent, run no code, and fit the model or say why not."""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from embae_plugin.models import bundle as checkpoint
from embae_plugin.training.run_identity import (
    check_identity,
    load_checkpoint,
    load_weights,
    read_file,
    save_checkpoint,
    state_fingerprint,
)
from tests.methods.tiny import same_weights
from tests.methods.tiny_net import net

# --- writing --------------------------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "new" / "folder" / "last.pth"
    payload = {"model": net(0).state_dict(), "position": [1, 2, 3], "lr": 1e-4, "pair": (1, "a"),
               "none": None, "deep": {"rows": [{"loss": 0.5, "name": "embedding"}]}}
    save_checkpoint(path, payload)
    back = load_checkpoint(path)
    assert back.pop("format") == "embae-checkpoint" and back.pop("version") == 1
    weights = back.pop("model")
    assert all(torch.equal(weights[k], v) for k, v in payload.pop("model").items())
    assert back == payload


@pytest.mark.parametrize("error", [RuntimeError("disk full"), OSError(28, "No space left")])
def test_a_failure_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch, error):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"epoch": 1})
    before = path.read_bytes()

    def half(_: object, stream) -> None:
        stream.write(b"half a checkpoint")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*last\.pth.*is untouched"):
        save_checkpoint(path, {"epoch": 2})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.pth"]


def test_ctrl_c_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"epoch": 1})

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path)["epoch"] == 1 and os.listdir(tmp_path) == ["last.pth"]


def test_a_reader_never_sees_a_file_that_is_being_written(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"epoch": 1})
    write, seen = torch.save, []

    def watched(payload, stream) -> None:
        write(payload, stream)
        seen.append(load_checkpoint(path)["epoch"])

    monkeypatch.setattr(checkpoint.torch, "save", watched)
    save_checkpoint(path, {"epoch": 2})
    assert seen == [1] and load_checkpoint(path)["epoch"] == 2


def test_the_file_is_as_readable_as_other_new_files(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {})
    (tmp_path / "ordinary").touch()
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("last.pth", "ordinary")]
    assert modes[0] == modes[1]


# --- reading --------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*gone\.pth does not exist"):
        load_checkpoint(tmp_path / "gone.pth")


def test_a_file_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"model": net(0).state_dict()})
    whole = path.read_bytes()
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"last\.pth is (cut short, )?damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("content", [b"plain words\n", b"\x00" * 500, b"PK\x03\x04" + b"x" * 99,
                                     b"\x80\x02}q\x00.", b"\x80\x02X\x05"])
def test_what_is_no_checkpoint_is_a_value_error(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pth is "):
        load_checkpoint(path)


class Harm:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, form):
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    payload = {"format": "embae-checkpoint", "version": 1, "model": Harm(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match=r"evil\.pth holds Python objects besides weights"):
        load_checkpoint(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Harm(mark)))
    assert mark.exists()  # it would have been


def test_other_formats_and_versions_are_named(tmp_path):
    path = tmp_path / "last.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"last\.pth is not an EmbAE checkpoint"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="is not an EmbAE checkpoint"):
        load_checkpoint(path)
    torch.save({"format": "embae-checkpoint", "version": 9}, path)
    with pytest.raises(ValueError, match=r"checkpoint version 9; this release reads version 1"):
        load_checkpoint(path)


def torchreids_checkpoint(path: Path, model: nn.Module) -> dict:
    """What torchreid's ``save_checkpoint`` writes: rank-1 is a numpy scalar."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 7,
        "rank1": np.float32(0.25), "mAP": np.float64(0.125), "count": np.int64(3),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
    }
    torch.save(content, path)
    return content


def test_torchreids_checkpoints_load_with_their_numpy_scalars(tmp_path):
    model = nn.Linear(2, 2)
    torchreids_checkpoint(tmp_path / "model.pth.tar-7", model)
    content = read_file(tmp_path / "model.pth.tar-7")
    assert (content["rank1"], content["mAP"], content["count"]) == (0.25, 0.125, 3)
    fresh = torch.optim.Adam(nn.Linear(2, 2).parameters())
    fresh.load_state_dict(content["optimizer"])
    assert fresh.param_groups[0]["lr"] == 0.1 and content["epoch"] == 7
    other = nn.Linear(2, 2)
    load_weights(other, tmp_path / "model.pth.tar-7")
    assert same_weights(other, model)


# --- going on from another run --------------------------------------------------------------


def test_the_same_settings_are_the_same_run(tmp_path):
    identity = {"seed": 1, "transforms": ["random_flip"], "lr": 1e-4}
    save_checkpoint(tmp_path / "last.pth", {"identity": identity})
    check_identity("last.pth", load_checkpoint(tmp_path / "last.pth")["identity"], identity)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_torchs_advice_to_switch_the_protection_off_is_not_passed_on(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"a": np.arange(3)}, protocol=5))
    with pytest.raises(ValueError) as caught:
        read_file(path)
    assert "weights_only" not in str(caught.value) and "not loaded" in str(caught.value)


def test_each_setting_that_differs_is_named():
    with pytest.raises(ValueError) as caught:
        check_identity("run/last.pth", {"lr": 0.1, "seed": 1, "old": 2},
                       {"lr": 0.2, "seed": 1, "new": "x"})
    text = str(caught.value)
    assert "run/last.pth comes from a run with other settings" in text
    assert "lr: 0.1 then, 0.2 now" in text
    assert "new: (absent) then, 'x' now" in text and "old: 2 then, (absent) now" in text
    assert "seed" not in text and "data.save_dir" in text


# --- fingerprints ---------------------------------------------------------------------------


def test_a_fingerprint_follows_every_weight_and_buffer():
    one = net(0)
    name = state_fingerprint(one)
    assert state_fingerprint(net(0)) == name and state_fingerprint(net(1)) != name
    assert state_fingerprint(one.to(memory_format=torch.channels_last)) == name
    one.trunk[1].running_var[0] += 1e-3
    assert state_fingerprint(one) != name


def test_a_fingerprint_does_not_depend_on_memory_layout():
    conv = nn.Conv2d(3, 4, 3)
    name = state_fingerprint(conv)
    assert state_fingerprint(conv.to(memory_format=torch.channels_last)) == name
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] += 1
    assert state_fingerprint(conv) != name
