"""Stage export: write a saved model to files that run without tascnet."""

from pathlib import Path

import tascnet
from tascnet.cli.config import Config, spelling
from tascnet.cli.folders import cache_folder, given_model, last_model
from tascnet.data import check_samples
from tascnet.report.card import update_card
from tascnet.report.exports import export_table
from tascnet.run.console import output
from tascnet.run.records import ExportMetrics
from tascnet.train.export import FILES, judged_before


def run(config: Config) -> None:
    """Export the model that `export.model` names, or the run's last one, to a folder beside it.

    It is called `export`, or `<name>-export` where the model's folder is not called `model`.
    """
    given = config.export.model
    saved = last_model(config) if given is None else given_model(given)
    check_samples(config.dataset, cache_folder(config))
    write(config, saved)


def write(config: Config, saved: Path) -> ExportMetrics:
    """Write the files of a saved model, or those that are missing, and print what they are."""
    network, folder = tascnet.load(saved), saved.absolute().parent
    place = folder / ("export" if saved.name == "model" else f"{saved.name}-export")
    with spelling("export", is_alone=False):
        metrics = tascnet.export_all(
            network,
            place,
            config.dataset,
            config.export,
            metric=config.metric,
            seed=config.seed,
            threads=config.threads,
            cache=cache_folder(config),
            cache_limit_gb=config.cache_limit_gb,
            fresh=config.fresh,
        )
    # Its test figures, where stage `full` has read them.
    update_card(folder, network, int8=judged_before(place / FILES["onnx_int8"]))
    output().print(export_table(metrics, config.metric, title=str(place)))
    return metrics
