"""What a run is to do: the stages, the rows of results, and how a user's crops are adapted to."""

from __future__ import annotations

from dataclasses import dataclass

from yacs.config import CfgNode

from embae_plugin.evaluation.label_free import RULES
from embae_plugin.methods.registry import Row, chain, gates, row_named, rows, variant_names
from embae_plugin.methods.transfer import VARIANTS
from embae_plugin.settings.checks import CONFIG_CHECKS, check
from embae_plugin.settings.fields import Settings, setting

STAGES = ("embedding", "autoencoder", "transfer")
# Names of earlier releases, and the rows that they stand for.
RENAMED = {"trunk": "clusters-trunk", "heads": "clusters-heads"}
RECONSTRUCTION = "reconstruction"  # the paper's, by embae.adapt.variant


def adapt_methods() -> list[str]:
    """What ``embae.adapt.method`` may be."""
    names = [row.name for row in rows().values() if row.adapts]
    return [*names, RECONSTRUCTION, *RENAMED]


@dataclass(frozen=True)
class RunSettings(Settings, node=""):
    """What `embae train` does."""

    stages: tuple[str, ...] = setting(STAGES, "The paper's stages that are run.", choices=gates)
    variants: tuple[str, ...] = setting(("baseline", *VARIANTS), "The rows of results.",
                                        choices=variant_names)


@dataclass(frozen=True)
class AdaptSettings(Settings, node="adapt"):
    """What `embae adapt` does, and when it leaves the model as it is."""

    method: str = setting("clusters-trunk", "The method; trunk and heads are short for "
                          "clusters-trunk and clusters-heads, reconstruction for the paper's.",
                          choices=adapt_methods)
    variant: str = setting("cam", "Of reconstruction; with a single camera it is new.",
                           choices=tuple(VARIANTS))
    stop: str = setting("effective_rank", "Of reconstruction: the epoch that is kept, see "
                        "embae.transfer.stop.", choices=RULES)
    largest_cluster: float = setting(0.07, "Share of the crops above which a cluster is not taken "
                                     "for a person.", above=0, most=1)
    flip_fall: float = setting(0.1, "Fall of the agreement of mirror images above which "
                               "statistics by camera are undone.", least=0)
    least_kept: float = setting(0.1, "Share of crops in clusters below which nothing is learned "
                                "from them.", least=0)
    plain: bool = setting(True, "Also make a network for who names no camera, see embae.distill.")

    def row(self, cameras: int = 2) -> str:
        """The row whose model is wanted, for crops of so many cameras."""
        if self.method != RECONSTRUCTION:
            return RENAMED.get(self.method, self.method)
        return "new" if cameras == 1 and self.variant == "cam" else self.variant


def runs(row: Row, cfg: CfgNode) -> bool:
    """Whether the stages of a configuration let a row be made."""
    made = [one.method for one in chain(row.name, cfg) if one.method is not None]
    have = {*cfg.embae.stages, "embedding"}  # stage 1 may have been finished before, or given
    return all(not method.gate or method.gate in have for method in made)


def check_run(cfg: CfgNode) -> None:
    """Refuses what a run of loss.name embae cannot do.

    Raises:
        ValueError: names the key.
    """
    embae = cfg.embae
    check(
        cfg.model.name.startswith("embae_") or bool(cfg.model.load_weights),
        f"loss.name embae needs an EmbAE model, or with model.load_weights a network of "
        f"torchreid's; model.name is {cfg.model.name!r}; for example model.name embae_mobilenetv1",
    )
    used = [f"embae.nuisance.{key}" for key, value in embae.nuisance.items() if value]
    check(embae.z_nui_dim > 0 or not used, f"{', '.join(used)}: with embae.z_nui_dim 0 there is "
          "no code that it could hold back")
    _check_datasets(list(cfg.data.sources), list(cfg.data.targets), list(embae.stages))
    for name in embae.variants:
        if name != "baseline" and name not in VARIANTS:  # those are what a run is cut short by
            check(runs(row_named(name), cfg), f"embae.variants names {name}, which needs stages "
                  f"that embae.stages ({', '.join(embae.stages)}) leaves out")


def _check_datasets(sources: list[str], targets: list[str], stages: list[str]) -> None:
    check(bool(sources) or "embedding" not in stages,
          "data.sources is empty; name at least one labelled dataset")
    check(
        len(targets) <= 1,
        f"EmbAE adapts to one target in a run, data.targets has {len(targets)}: "
        f"{', '.join(targets)}; run once for each",
    )
    if "transfer" in stages:
        check(bool(targets), "data.targets is empty; name the dataset to adapt to")
        both = sorted(set(sources) & set(targets))
        check(not both, f"{', '.join(both)} is both a source and the target; the target must "
              "be other cameras than those the model learned on")
        check("autoencoder" in stages, f"embae.stages is {stages}: transfer starts from the "
              "autoencoder; add it (a finished one is only read)")


CONFIG_CHECKS.append(check_run)
