"""Stage prune: make the network that stage tune left, or any saved one, smaller."""

import logging
from pathlib import Path
from typing import cast

import tascnet
from tascnet.cli.config import Config
from tascnet.cli.folders import cache_folder, stage_folder, stage_keywords
from tascnet.data import check_samples
from tascnet.errors import ArchiveError, ConfigError, RunFolderError
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import ImageBackbone, Texts
from tascnet.report import class_lines, fall_lines, speed_lines, stage_tables, widths_table
from tascnet.run.console import output
from tascnet.run.folder import finished
from tascnet.run.records import TuneMetrics, read_record, score

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Run stage `prune`, resume it, or show what it found."""
    cache = cache_folder(config)
    check_samples(config.dataset, cache)
    saved, teaching = _saved_network(config), _teaching(config)
    try:
        network = tascnet.load(saved)
        teacher = None if teaching is None else tascnet.load(teaching)
    except ArchiveError as error:
        if config.prune_run.source is not None:
            raise
        raise ArchiveError(error.message, "run stage=tune again, which makes it again") from error
    _log_inputs(config, cast(ModelInfo, network.info).preprocessing)
    if teaching is not None:
        log.info("the conventional network teaches: on validation it is better than the network to prune")
    result = tascnet.prune(
        network,
        config.dataset,
        config.prune,
        teacher=teacher,
        executor=config.executor,
        **stage_keywords(config, stage_folder(config, "prune")),
    )
    metrics = result.metrics
    for part in (widths_table(metrics.widths), *stage_tables(metrics), *class_lines(metrics)):
        output().print(part)
    for line in fall_lines(metrics):
        log.info(line)
    for line in speed_lines(metrics.models, metrics.removable_blocks, metrics.measure["target"]):
        log.info(line)


def _saved_network(config: Config) -> Path:
    """The folder of the network to prune: `prune.source`, or what stage `tune` left in the same run folder.

    Raises:
        RunFolderError: there is neither.
        ConfigError: it lies in the folder that this stage writes to.
    """
    own, tuned = config.prune_run.source, stage_folder(config, "tune")
    if own is None:
        if finished(tuned):
            return tuned / "model"
        raise RunFolderError(
            f"stage prune needs a tuned network, but there is none in {tuned}",
            "run stage=tune with the same options first, or give prune.source=<folder of a saved network>",
        )
    saved = Path(own).expanduser()
    if stage_folder(config, "prune").resolve() in saved.resolve().parents:
        raise ConfigError(
            f"prune.source={own} lies in the folder that this stage writes to",
            "choose another folder with name=..., or another network",
        )
    return saved


def _teaching(config: Config) -> Path | None:
    """The folder of stage `tune`'s conventional network, if that is better on validation than the tuned one.

    None: there is none, another network is pruned, or nothing is learnt from a teacher.
    """
    if config.prune_run.source is not None or not config.prune.distill:
        return None
    tuning = read_record(stage_folder(config, "tune") / "metrics.json", TuneMetrics)
    usual, tuned = (score(tuning.models[name], config.metric) for name in ("conventional", "after"))
    if usual is None or tuned is None or usual <= tuned:
        return None
    return stage_folder(config, "search") / tuning.archives["conventional"]


def _log_inputs(config: Config, saved: Preprocessing | TextPreprocessing) -> None:
    """Report where a saved network takes other inputs than the options would give a new one."""
    if isinstance(saved, TextPreprocessing):
        own, option = saved.max_tokens, "dataset.max_tokens"
        asked = config.dataset.max_tokens if isinstance(config.dataset, Texts) else own
    else:
        own, option = saved.size, "backbone.size"
        asked = (config.backbone.size if isinstance(config.backbone, ImageBackbone) else None) or own
    if asked != own:
        log.info("the saved network keeps the inputs that it was made for: %s=%d, not %d", option, own, asked)
