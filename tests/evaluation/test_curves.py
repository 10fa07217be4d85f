from __future__ import annotations

import pytest

from embae_plugin.evaluation.learning_curves import (
    adaptation_curves,
    mean_curve,
    plot_curves,
)

HISTORY = {
    "embedding": [{"epoch": 1, "loss": 0.5, "mAP": 0.1}],
    "autoencoder-common": [{"epoch": 1, "reconstruction": 0.4}],
    "transfer-fix": [
        {"epoch": 1, "reconstruction": 0.3, "rank1": 0.2, "mAP": 0.1},
        {"epoch": 2, "reconstruction": 0.2},
    ],
    "transfer-new": [{"epoch": 1, "reconstruction": 0.3}],
}


def test_only_scored_epochs_of_adaptation_are_curves():
    assert adaptation_curves(HISTORY) == {"fix": HISTORY["transfer-fix"][:1]}


def test_a_plot_is_a_png_and_nothing_is_written_without_curves(tmp_path):
    path = tmp_path / "new" / "curves.png"
    assert plot_curves(path, [adaptation_curves(HISTORY)], [{"rank1": 0.15, "mAP": None}]) is True
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert plot_curves(tmp_path / "none.png", [{}]) is False
    assert not (tmp_path / "none.png").exists()


def test_a_mean_curve_is_of_gains_at_the_epochs_that_all_runs_scored():
    long = [{"epoch": 1, "mAP": 0.2}, {"epoch": 2, "mAP": 0.5}]
    short = [{"epoch": 1, "mAP": 0.4}]
    (zero, one) = mean_curve([long, short], "mAP", [0.1, 0.2]).T  # gains 0.1 and 0.2
    assert zero.tolist() == [0, 0.0, 0.0]
    assert one.tolist() == pytest.approx([1, 0.15, 0.005**0.5])
    # Without baselines the scores themselves, from epoch 1; a single run has no spread.
    (one,) = mean_curve([long, short], "mAP").T
    assert one.tolist() == pytest.approx([1, 0.3, 0.02**0.5])
    assert mean_curve([long], "mAP").T.tolist() == [[1, 0.2, 0.0], [2, 0.5, 0.0]]


def test_mean_curves_are_drawn_of_variants_that_every_run_has(tmp_path):
    rows = [{"epoch": n, "rank1": 0.1 * n, "mAP": 0.1 * n, "reconstruction": 1.0} for n in (1, 2)]
    path = tmp_path / "mean.png"
    assert plot_curves(path, [{"fix": rows}, {"fix": rows, "new": rows}], gains=True) is True
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert plot_curves(tmp_path / "none.png", [{"fix": rows}, {"new": rows}]) is False
    assert plot_curves(tmp_path / "none.png", []) is False
    assert not (tmp_path / "none.png").exists()
