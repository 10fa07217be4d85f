from __future__ import annotations

import numpy as np
import pytest

from embae_plugin.evaluation import PROTOCOLS, Protocol, evaluate_rank
from embae_plugin.evaluation.protocols import get_protocols

# gallery: same pid + same cam, same pid + other cam, other pid + same cam, other pid + other cam
G_PIDS, G_CAMIDS = [7, 7, 8, 8], [1, 2, 1, 2]


@pytest.mark.parametrize(
    "name, ignored", [("market", [True, False, False, False]), ("nd", [True, False, True, False])]
)
def test_what_a_query_ignores(name, ignored):
    mask = PROTOCOLS[name].ignored([7], G_PIDS, [1], G_CAMIDS)
    np.testing.assert_array_equal(mask, [ignored])


def test_an_unknown_protocol_is_named_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"'cuhk03'; valid ones: market, nd"):
        get_protocols("cuhk03")
    with pytest.raises(ValueError, match="''; valid ones: market, nd"):
        get_protocols([])


def test_names_are_taken_in_order_and_once():
    assert [p.name for p in get_protocols(["nd", "market", "nd"])] == ["nd", "market"]
    assert [p.name for p in get_protocols("nd")] == ["nd"]


def test_a_new_protocol_is_one_entry(monkeypatch):
    """Without camera ids nothing can be ignored: the query's own camera counts, too."""
    everything = Protocol("all", False, False, "ignore nothing")
    monkeypatch.setitem(PROTOCOLS, "all", everything)
    distmat = [[0.3, 0.2, 0.1]]
    cmc, mean_ap = evaluate_rank(distmat, [1], [1, 1, 2], [0], [0, 0, 0], 3, protocol="all")
    np.testing.assert_array_equal(cmc, [0, 1, 1])
    assert mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)
