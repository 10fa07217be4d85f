from __future__ import annotations

from embae_plugin.evaluation.curves import adaptation_curves, plot_curves

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
    assert plot_curves(path, HISTORY, {"rank1": 0.15, "mAP": None}) is True
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert plot_curves(tmp_path / "none.png", {"embedding": []}) is False
    assert not (tmp_path / "none.png").exists()
