"""Stage predict: the classes of new images or texts."""

import logging

from tascnet.cli.config import Config, spelling
from tascnet.cli.folders import is_multirun, job_digest, last_model, outputs_folder, safe_name
from tascnet.errors import plural
from tascnet.exporting.inputs import Inputs
from tascnet.exporting.predictions import STDOUT, write_predictions
from tascnet.run.console import track

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Write the likeliest classes of all samples, in their order.

    Raises:
        RunFolderError: no model is named, and the run has none.
        DataError: there are no samples, or one cannot be read and `predict.unreadable` is `fail`.
    """
    options = config.predict
    path = options.model or last_model(config)
    # Late: they import torch, and mistakes are found before.
    from tascnet.exporting.models import open_model
    from tascnet.exporting.predict import predict_each

    assert options.input is not None, "the rules ask for it"
    with spelling("predict"):
        model = open_model(path, threads=config.threads, device=config.device)
        samples = Inputs(options.input, is_text=model.is_text)
        records = predict_each(
            model,
            samples,
            top=options.top,
            batch_size=options.batch_size,
            unreadable=options.unreadable,
            extra_channels=getattr(config.dataset, "extra_channels", "refuse"),
            threads=config.threads,
        )
        folder = outputs_folder(config) / "predict"
        if is_multirun():
            folder /= f"{safe_name(model.name)}-{job_digest()}"
        usual = (folder / "predictions.csv", folder / "predictions.jsonl")
        places = usual if options.output is None else (options.output,)
        shown = track(records, "predict", samples.total)
        top = min(options.top, len(model.class_names))
        total, _ = write_predictions(shown, places, top=top, is_text=model.is_text)
    what = plural(total, "text" if model.is_text else "image")
    names = " and ".join("standard output" if place == STDOUT else str(place) for place in places)
    log.info("%s by %s: written to %s", what, model.name, names)
