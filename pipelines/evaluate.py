"""Stage evaluate: how good a saved or exported model is on labelled samples."""

import logging
from pathlib import Path

import tascnet
from tascnet.cli.config import Config, spelling
from tascnet.cli.folders import cache_folder, given_model, last_model, outputs_folder, safe_name
from tascnet.report.evaluation import evaluation_parts
from tascnet.run.console import output
from tascnet.run.files import digest_json
from tascnet.run.records import to_json, write_record

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Print the figures, and write them to a folder that depends on model, data, split and seed.

    Raises:
        RunFolderError: no model is named, and the run has none.
    """
    path = given_model(config.evaluate.model or last_model(config))
    with spelling("evaluate"):
        metrics = tascnet.evaluate(
            path,
            config.dataset,
            split=config.evaluate.split,
            seed=config.seed,
            device=config.device,
            threads=config.threads,
            cache=cache_folder(config),
            cache_limit_gb=config.cache_limit_gb,
        )
    for part in evaluation_parts(metrics):
        output().print(part)
    folder = evaluation_folder(config, path)
    write_record(folder / "metrics.json", metrics)
    log.info("written to %s", folder / "metrics.json")


def evaluation_folder(config: Config, model: Path) -> Path:
    """`<outputs>/evaluate/<dataset>/<model>-<digest of model, data, split and seed>`."""
    asked = [str(model.absolute()), to_json(config.dataset), config.evaluate.split, config.seed]
    name = f"{safe_name(model.stem if model.name != 'model' else model.parent.name)}-{digest_json(asked)[:8]}"
    return outputs_folder(config) / "evaluate" / config.dataset.name / name
