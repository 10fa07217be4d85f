"""The models of rows: each made once, from a copy of the one it starts from."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ReIDData
from embae_plugin.methods.registry import Row, row_named, rows
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.stage_engine import History, Outcome, StageEngine

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


def copied(model: EmbAE) -> EmbAE:
    """A copy in eval mode, on the model's device."""
    twin = EmbAE.from_spec(model.spec())
    twin.load_state_dict(model.state_dict())
    return twin.to(next(model.parameters()).device).eval()


def with_output(model: EmbAE, output: str) -> EmbAE:
    """A copy that returns ``z_id``, ``h`` or both (``joint``)."""
    changed = copy.deepcopy(model)
    changed.output = output
    return changed


def shown(model: EmbAE, show: str) -> EmbAE:
    """A model as a row with ``show`` has it.

    ``h``: by its trunk features; ``plain``: an ordinary network with the statistics that all
    cameras have in common; ``unnamed``: the model itself, to be scored without cameras' names.
    """
    if show == "h":
        return with_output(model, "h")
    return model.of_camera(-1) if show == "plain" else model


class RowModels:
    """Makes the models of rows, and remembers those that others start from.

    Args:
        cfg: a checked configuration.
        data: labelled sources, the unlabelled target, and what it is scored on.
        store: the banks of images and features.
        save_dir: for the checkpoints; the same call goes on from what is there.
        given: models of rows that need not be made.
        guards: the settings of ``embae.adapt``, with which each method may leave the model as it
            was; None to run every method as it is.
        writer: a TensorBoard writer, or None.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data: ReIDData,
        store: FeatureStore,
        save_dir: Path,
        given: dict[str, EmbAE],
        guards: Any = None,
        writer: SummaryWriter | None = None,
    ) -> None:
        self.cfg, self.data, self.store, self.save_dir = cfg, data, store, save_dir
        self.models, self.guards, self.writer = dict(given), guards, writer
        self.outcomes: dict[str, Outcome] = {}
        self.history: dict[str, History] = {}
        self.seconds: dict[str, float] = {}

    def model_of(self, name: str | Row) -> EmbAE:
        """The model of a row, registered or not, which is not to be changed."""
        if isinstance(name, str) and name in self.models:
            return self.models[name]
        row = row_named(name) if isinstance(name, str) else name
        if row.method is None:
            return shown(self.model_of(row.starts_from), row.show)
        start = self._start_of(row, row.method)
        model = copied(row.method.prepared(start))
        if row.trunk_from:
            self._take_trunk(model, self.model_of(row.trunk_from))
        model.output = row.output or model.output
        model = self._make(row, row.method, model, start)
        starts = {n for other in rows().values() for n in (other.starts_from, other.trunk_from)}
        if row.along or row.name in starts:
            self.models[row.name] = model
        return model

    def _start_of(self, row: Row, method: type[StageEngine]) -> EmbAE:
        return self.model_of(method.start_of(row.starts_from, self.cfg))

    @staticmethod
    def _take_trunk(model: EmbAE, other: EmbAE) -> None:
        model.trunk = copy.deepcopy(other.trunk)
        model.camera_parts, model.camera_names = other.camera_parts, other.camera_names
        model.guess = copy.deepcopy(other.guess)

    def _make(
        self, row: Row, method: type[StageEngine], model: EmbAE, start: EmbAE
    ) -> EmbAE:
        cfg, started = self.cfg, time.monotonic()
        settings = method.settings_class.of(cfg, **row.fixed)
        engine = method(
            self.data, model, settings=settings, stage=row.folder, store=self.store,
            use_gpu=bool(cfg.use_gpu), seed=cfg.train.seed,
            **method.inputs(cfg, self.data, model, start),
        )
        engine.writer = self.writer
        options: dict[str, Any] = {
            "save_interval": cfg.embae.save_interval, "tta": cfg.embae.test.tta,
            "normalize_feature": cfg.test.normalize_feature, "ranks": cfg.test.ranks,
            "eval_freq": cfg.test.eval_freq, "start_eval": cfg.test.start_eval,
        }
        if self.guards is None:
            outcome = Outcome(engine.run(self.save_dir, **options), "")
        else:
            outcome = engine.adapt(self.save_dir, self.guards, **options)
        self.outcomes[row.name] = outcome
        self.history[row.folder] = outcome.history
        self.seconds[row.folder] = time.monotonic() - started
        made: EmbAE = engine.model
        return made
