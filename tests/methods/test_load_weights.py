"""Weights of every kind of file load where they fit, and say why where they do not."""

from __future__ import annotations

import pytest
import torch

from embae_plugin.training.run_identity import load_weights, save_checkpoint
from tests.methods.tiny import same_weights, tiny_model
from tests.methods.tiny_net import net


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s},
                                  lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_weights_load_from_each_kind_of_file(tmp_path, wrap):
    torch.save(wrap(net(1).state_dict()), tmp_path / "w.pth")
    model = net(2)
    load_weights(model, tmp_path / "w.pth")
    assert same_weights(model, net(1))


def test_parts_leave_the_others_alone(tmp_path):
    save_checkpoint(tmp_path / "w.pth", {"model": net(1).state_dict()})
    model = net(2)
    load_weights(model, tmp_path / "w.pth", parts=("trunk",))
    assert same_weights(model.trunk, net(1).trunk) and same_weights(model.head, net(2).head)


def test_only_the_parts_asked_for_must_fit(tmp_path):
    wrong_head = net(1).state_dict()
    wrong_head["head.weight"] = torch.zeros(9, 3)
    torch.save(wrong_head, tmp_path / "w.pth")
    model = net(2)
    load_weights(model, tmp_path / "w.pth", parts=("trunk",))
    with pytest.raises(ValueError, match=r"head\.weight is \(9, 3\), the model's is \(2, 3\)"):
        load_weights(model, tmp_path / "w.pth")


def test_parts_that_neither_side_has_are_refused(tmp_path):
    torch.save(net(1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no f_emb in this model"):
        load_weights(net(2), tmp_path / "w.pth", parts=("trunk", "f_emb"))


def test_weights_of_another_network_are_named_key_by_key(tmp_path):
    torch.save(net(1, width=4).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth belongs to another model: trunk\.0\.weight is "
                       r"\(4, 2\), the model's is \(3, 2\).*and 2 more"):
        load_weights(net(2), tmp_path / "w.pth")
    torch.save({"trunk.0.weight": torch.zeros(3, 2), "fc.weight": torch.zeros(1)},
               tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"missing trunk\.0\.bias.*more"):
        load_weights(net(2), tmp_path / "w.pth")
    state = net(1).state_dict()
    torch.save({**state, "fc.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"unexpected fc\.weight"):
        load_weights(net(2), tmp_path / "w.pth")


def test_a_file_without_weights_is_named(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds no weights"):
        load_weights(net(0), tmp_path / "w.pth")


def test_a_failed_load_changes_nothing(tmp_path):
    state = net(1).state_dict()
    state["head.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "w.pth")
    model = net(2)
    with pytest.raises(ValueError):
        load_weights(model, tmp_path / "w.pth")
    assert same_weights(model, net(2))


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [("trunk", "mobilenetv1_x0_5", "embae.trunk"), ("order", "bn_relu", "embae.head_order")],
)
def test_a_model_of_the_same_shapes_that_computes_otherwise_is_refused(
    tmp_path, key, value, setting
):
    model = tiny_model()
    spec = {**model.spec(), key: value}
    save_checkpoint(tmp_path / "last.pth", {"spec": spec, "model": model.state_dict()})
    with pytest.raises(ValueError, match=rf"another model: its {setting} is {value}, this run's"):
        load_weights(model, tmp_path / "last.pth", parts=("f_emb",))
    save_checkpoint(tmp_path / "last.pth", {"spec": model.spec(), "model": model.state_dict()})
    fresh = tiny_model(seed=1)
    load_weights(fresh, tmp_path / "last.pth", parts=("trunk", "f_emb"))
    assert same_weights(fresh.trunk, model.trunk) and not same_weights(fresh.f_dec, model.f_dec)
