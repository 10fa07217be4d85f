"""What the engines share: torchreid's face, EmbAE's loop, typed settings.

An engine is made and run as torchreid's are, ``Engine(datamanager, model, …).run(max_epoch=…,
save_dir=…)``, and is a subclass of torchreid's. What a method has to say is its settings, the
images it learns from and its phases.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from embae_plugin import distributed
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.evaluation import Scores
from embae_plugin.evaluation.score_table import SHOWN, score_row
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import Settings
from embae_plugin.training.loop import FILES, PROCESSES, Loop, LoopOptions
from embae_plugin.training.phase import Phase
from embae_plugin.training.run_identity import load_checkpoint, state_fingerprint
from embae_plugin.training.scoring import score_model
from embae_plugin.training.train_step import faster_precision, precision_name, resolve_precision

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

History = list[dict[str, Any]]
# torchreid's arguments of Engine.run that these engines have no use for, at values that ask for
# nothing.
NEUTRAL = {
    "start_epoch": 0, "fixbase_epoch": 0, "rerank": False, "visrank": False,
    "use_metric_cuhk03": False,
}
SHOW_ONLY = ("print_freq", "visrank_topk", "open_layers")  # say how the former are done or shown


@dataclass
class Outcome:
    """What came of adapting a user's model by one method.

    Attributes:
        history: a row of averages for each epoch.
        words: what was done; "" if nothing was.
        numbers: more entries of the summary.
    """

    history: History
    words: str
    numbers: dict[str, Any] = field(default_factory=dict)


class StageEngine(bridge.Engine):
    """Base of the EmbAE engines.

    Args:
        datamanager: torchreid's ``ImageDataManager``, or a :class:`ReIDData`.
        model: the EmbAE model, changed in place.
        part: the value of the setting that :attr:`selector` names; "" for its default.
        settings: of the class :attr:`settings_class`; None makes one of ``**given``.
        use_gpu: use CUDA where there is one.
        seed: every random choice follows from it.
        store: the banks of images and features to read; made from the datamanager if None.
        stage: the folder of the checkpoint; "" for the method's own name.
        **given: settings by name.

    Raises:
        ValueError: another kind of model, or settings that cannot work.
    """

    settings_class: ClassVar[type[Settings]] = Settings
    selector: ClassVar[str] = ""  # the setting that may be given as third argument
    stage: str = ""
    gate: ClassVar[str] = ""  # the entry of embae.stages that lets this method run
    trunk_learns = False  # then features serve one scoring only
    scored_phases: tuple[str, ...] = ("",)  # beginnings of names of those that change the embedding

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        part: str = "",
        *,
        settings: Any = None,
        use_gpu: bool = True,
        seed: int = 1,
        store: FeatureStore | None = None,
        stage: str = "",
        **given: Any,
    ) -> None:
        super().__init__(datamanager, use_gpu)
        if not isinstance(model, EmbAE):
            raise ValueError(
                f"{type(self).__name__} needs an EmbAE model (model.name embae_…), not "
                f"{type(model).__name__}"
            )
        if part:
            given[self.selector] = part
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        self.settings: Any = type(self).settings_class(**given) if settings is None else settings
        self.stage = stage or self.stage_of(self.settings)
        self.data = ReIDData.from_datamanager(datamanager)
        self.seed = seed
        self.device = torch.device("cuda" if self.use_gpu else "cpu")
        self.model = model.to(self.device)
        self.register_model("model", self.model, None, None)
        self.store = store or self._store_of(datamanager)
        self.bf16 = False

    # --- what a method says -----------------------------------------------------------------

    @classmethod
    def stage_of(cls, settings: Any) -> str:
        """The folder of the checkpoint, where a run gives no other."""
        return cls.stage

    def learns_from(self) -> ImageRecords:
        """The images that this stage learns from; their names, sizes and labels are compared."""
        raise NotImplementedError

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """The work of this stage, one :class:`Phase` for each optimiser."""
        raise NotImplementedError

    def epochs(self) -> int:
        """Epochs of the main phase, where :meth:`run` is given no other number."""
        return int(self.settings.max_epoch)

    def words(self) -> str:
        """What this method does, for a summary."""
        return self.stage

    def watch(self, phase: str, epoch: int, every: bool) -> dict[str, float]:
        """What is measured after an epoch without labels; ``every``: all that can be."""
        return {}

    @classmethod
    def start_of(cls, starts_from: str, cfg: CfgNode) -> str:
        """The row that this method starts from in a configuration; usually the row's own."""
        return starts_from

    @classmethod
    def prepared(cls, model: EmbAE) -> EmbAE:
        """The model to work on, made of a copy of the one it starts from."""
        return model

    @classmethod
    def check_model(cls, model: EmbAE, settings: Any, alone: bool) -> None:
        """Refuses a model that this method can change nothing of.

        Args:
            alone: nothing else will be done to it.

        Raises:
            ValueError: says why, and what can be done instead.
        """

    @classmethod
    def inputs(cls, cfg: CfgNode, data: ReIDData, model: EmbAE, start: EmbAE) -> dict[str, Any]:
        """Arguments of the engine besides its settings, in a run of a configuration.

        Args:
            model: what the engine works on, a copy of ``start``, the model of the row before.
        """
        return {}

    def adapt(self, save_dir: str | Path, guards: Any, **options: Any) -> Outcome:
        """:meth:`run` for a user's model: where the method does harm, the model stays as it was.

        Args:
            guards: the settings of ``embae.adapt``.
        """
        return Outcome(self.run(save_dir, **options), self.words())

    # --- what they share ----------------------------------------------------------------------

    @property
    def source(self) -> ImageRecords:
        """The labelled images.

        Raises:
            ValueError: they carry no identities.
        """
        if self.data.source.pids is None:
            raise ValueError(f"{self.stage} learns from identities, and the source images carry "
                             "none")
        return self.data.source

    @property
    def target(self) -> ImageRecords:
        """The target's images.

        Raises:
            ValueError: there are none.
        """
        if self.data.target_train is None or not len(self.data.target_train):
            raise ValueError(
                "there are no target images to adapt to: name a target that is not a source"
            )
        return self.data.target_train

    def _store_of(self, datamanager: Any) -> FeatureStore:
        if isinstance(datamanager, ReIDData):
            raise ValueError("an engine made from ReIDData needs a FeatureStore as well")
        how = bridge.transforms_of(datamanager)
        sizes = (how["height"], how["width"], how["norm_mean"], how["norm_std"])
        return FeatureStore(*sizes, self.device)

    def _decide_precision(self, checkpoint: Path) -> None:
        """float32 or bf16, once: a run that goes on keeps the precision it began in."""
        asked = getattr(self.settings, "precision", "float32")
        if not self.trunk_learns:
            return
        if asked == "auto" and checkpoint.is_file():
            asked = load_checkpoint(checkpoint, mapped=True)["identity"].get("precision", asked)
        self.bf16 = resolve_precision(asked, self.device)
        if asked == "auto" and self.bf16 and self.device.type == "cpu" and not (
            distributed.size() > 1
        ):
            size = (self.settings.batch_size, 3, *self.store.size)
            self.bf16 = faster_precision(self.model.trunk, size) == "bf16"

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on from the other's checkpoint."""
        found = self.settings.identity()
        found.pop("precision", None)
        return {
            FILES: self.learns_from().fingerprint(),
            "seed": self.seed,
            "initial weights": state_fingerprint(self.model),
            **{f"model.{key}": value for key, value in self.model.spec().items()},
            **self.store.input_spec().as_dict(),
            **found,
            **({"precision": precision_name(self.bf16)} if self.trunk_learns else {}),
            **({PROCESSES: distributed.size()} if self.trunk_learns else {}),
        }

    def run(
        self,
        save_dir: str | Path = "log",
        max_epoch: int | None = None,
        test_only: bool = False,
        eval_freq: int = -1,
        start_eval: int = 0,
        normalize_feature: bool = True,
        dist_metric: str = "euclidean",
        ranks: Sequence[int] = (1, 5, 10, 20),
        save_interval: float = 30.0,
        tta: str = "flip",
        **torchreids: Any,
    ) -> History:
        """Trains this stage, going on from its checkpoint under ``save_dir`` if there is one.

        Args:
            save_dir: the checkpoint is ``save_dir/<stage>/last.pth``.
            max_epoch: epochs of the stage's main phase; None for what the settings say.
            test_only: only score the model on the target's query and gallery.
            eval_freq: score on the target's query and gallery after every so many epochs that
                change the embedding, for the log and the curves alone; -1 never.
            start_eval: the first epoch after which that is done.
            normalize_feature: score normalised embeddings (paper 5.1).
            dist_metric: ``cosine`` ranks as Euclidean distance of normalised embeddings does.
            ranks: of the CMC, printed.
            save_interval: seconds between checkpoints.
            tta: test-time augmentation, ``none``, ``flip`` or ``ten_crop``.
            **torchreids: torchreid's other settings, at values that ask for nothing.

        Returns:
            one row of averages for each epoch.

        Raises:
            ValueError: a setting of torchreid's that is not followed here.
            TypeError: a setting that is none of torchreid's.
        """
        self._refuse_torchreids(torchreids)
        normalize = normalize_feature or dist_metric == "cosine"
        if test_only:
            self.test(normalize_feature=normalize, tta=tta, ranks=ranks)
            return []

        def after_epoch(phase: str, epoch: int) -> dict[str, float]:
            due = eval_freq > 0 and epoch >= start_eval and not epoch % eval_freq
            if not (due and phase.startswith(self.scored_phases)):
                return self.watch(phase, epoch, False)
            row = score_row("", self.scores(normalize, tta), ranks=(1,))
            shown = {name: row[name] for name in SHOWN if row.get(name) is not None}
            return {**shown, **self.watch(phase, epoch, True)}

        checkpoint = Path(save_dir) / self.stage / "last.pth"
        self._decide_precision(checkpoint)
        epochs = self.epochs() if max_epoch is None else max_epoch
        mine, defaults = {**self.identity(), "max_epoch": epochs}, self._defaults()
        phases = self.phases(epochs)
        options = LoopOptions(
            checkpoint=checkpoint, identity=mine, defaults=defaults, save_interval=save_interval,
            writer=self.writer, after_epoch=after_epoch,
            extra={"spec": self.model.spec(), "input": self.store.input_spec().as_dict()},
        )
        history = Loop(self.stage, self.model, phases, options).run()
        distributed.copy_from_rank_zero(self.model)
        self.model.eval()
        self.model.requires_grad_(True)
        return history

    def _defaults(self) -> dict[str, Any]:
        """The identity of this method's default settings, as far as such can be made."""
        given = {self.selector: getattr(self.settings, self.selector)} if self.selector else {}
        return type(self.settings)(**given).identity()  # type: ignore[no-any-return]

    def _refuse_torchreids(self, given: dict[str, Any]) -> None:
        for name, value in given.items():
            if name not in (*NEUTRAL, *SHOW_ONLY):
                raise TypeError(f"{type(self).__name__}.run has no argument {name!r}")
            if name in NEUTRAL and value != NEUTRAL[name]:
                raise ValueError(f"{name} {value!r} is not done by {type(self).__name__}; use "
                                 "torchreid's own engines")

    def test(
        self,
        dist_metric: str = "euclidean",
        normalize_feature: bool = True,
        tta: str = "flip",
        ranks: Sequence[int] = (1, 5, 10, 20),
        **torchreids: Any,
    ) -> float:
        """Scores the model on the target's query and gallery, logs it and returns rank-1.

        Cosine distance ranks as Euclidean distance between normalised embeddings does.
        """
        scores = self.scores(normalize_feature or dist_metric == "cosine", tta)
        for protocol, result in scores.items():
            cmc = ", ".join(f"rank-{rank} {result.rank(rank):.3f}" for rank in ranks)
            logger.info("%s %s: mAP %.3f, %s", self.data.target, protocol, result.mAP, cmc)
        return float(scores["market"].rank1)

    def scores(self, normalize: bool = True, tta: str = "flip") -> dict[str, Scores]:
        """Both protocols' scores on the target's query and gallery."""
        if self.data.query is None or self.data.gallery is None:
            raise ValueError("there is no labelled query and gallery to score the model on")
        return score_model(
            self.model, self.store, self.data.query, self.data.gallery, tta, normalize,
            keep=not self.trunk_learns,
        )

