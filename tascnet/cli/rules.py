"""Rules between options of different sections, and files that must be there."""

import os
from collections.abc import Iterator
from glob import has_magic, iglob
from itertools import chain
from pathlib import Path

from tascnet.cli.config import Config, spell
from tascnet.errors import ConfigError, WeightsError, closest
from tascnet.exporting import installed
from tascnet.exporting.predictions import ENDINGS
from tascnet.options import (
    Autotune,
    Digits,
    DigitsBackbone,
    TextBackbone,
    Texts,
    Tune,
    shown,
)
from tascnet.presets import preset_names
from tascnet.run.files import unwritable

# Whether a rule is broken, what is wrong, and what to do.
Rule = tuple[bool, str, str | None]
# Stages that read a saved model, whatever weights it started from.
_SAVED = ("prune", "export", "predict", "evaluate")
# Stages of which `log` takes notes.
WATCHED = ("pretrain", "tune", "prune", "full")


def check_config(config: Config) -> None:
    """Check options of different sections against each other, and that the files that they name are there.

    Raises:
        ConfigError: a rule is broken, or a file is missing.
    """
    for wrong, message, hint in chain(
        *(_together(config), _by_stage(config), _files(config), _export(config)),
        *(_predict(config), _evaluate(config)),
        *(_network(config), _rivals(config)),
    ):
        if wrong:
            raise ConfigError(spell(message, None), None if hint is None else spell(hint, None))


def _together(config: Config) -> Iterator[Rule]:
    data, backbone, tune = config.dataset, config.backbone, config.tune
    is_text, reads_text = isinstance(data, Texts), isinstance(backbone, TextBackbone)
    yield (
        is_text != reads_text,
        f"backbone={backbone.name} takes {'texts' if reads_text else 'images'}, but dataset={data.name} "
        f"holds {'texts' if is_text else 'images'}",
        "take backbone=textcnn" if is_text else "take another backbone, or a data set of texts",
    )
    yield (
        reads_text and isinstance(tune, Autotune),
        "tune=autotune makes layers for images and has none for texts",
        "take tune=tascnet",
    )
    yield (
        reads_text and config.prune.blocks,
        "prune.blocks has no effect with backbone=textcnn, which has no residual blocks",
        "leave it out",
    )
    yield (
        isinstance(tune, Tune) and not reads_text and any(side % 2 == 0 for side in tune.kernels),
        f"tune.kernels takes odd numbers for images, not {shown(getattr(tune, 'kernels', ()))}",
        None,
    )
    yield (
        isinstance(backbone, DigitsBackbone) and not isinstance(data, Digits),
        f"backbone={backbone.name} is for digits of 8 x 8 pixels, not for dataset={data.name}",
        "choose a backbone for images, such as backbone=mobilenet_v2",
    )
    chosen = set("0123456789" if not isinstance(data, Digits) or data.classes is None else data.classes)
    shared = sorted(chosen & set("01234"))
    yield (
        isinstance(backbone, DigitsBackbone)
        and backbone.weights == "pretrained"
        and config.stage != "pretrain"
        and bool(shared),
        f"backbone={backbone.name} is pre-trained on the digits 0 to 4, but dataset.classes holds "
        f"{shown(shared)}",
        "take other digits, or backbone.weights=random",
    )


def _by_stage(config: Config) -> Iterator[Rule]:
    yield (
        config.stage == "pretrain" and config.backbone.weights not in ("pretrained", "random"),
        "backbone.weights has no effect with stage=pretrain, which starts from random weights",
        "leave it out",
    )
    yield (
        config.stage == "full" and config.prune_run.source is not None,
        "stage=full prunes what it has tuned, but prune.source names another model",
        "leave prune.source out or take stage=prune",
    )
    for option, is_given in (
        ("log.tensorboard", config.log.tensorboard),
        ("log.mlflow", config.log.mlflow is not None),
    ):
        yield (
            is_given and config.stage not in WATCHED,
            f"{option} has no effect with stage={config.stage}, which trains nothing",
            "leave it out",
        )
    yield (
        config.stage == "export" and config.device not in ("auto", "cpu"),
        f"device={config.device} has no effect with stage=export, which runs on the CPU",
        "leave it out",
    )


def _files(config: Config) -> Iterator[Rule]:
    """Files and folders that are named and missing; compare and predict read none of them."""
    if config.stage in ("compare", "predict"):
        return
    data, backbone = config.dataset, config.backbone
    root, csv = getattr(data, "root", None), getattr(data, "csv", None)
    if not getattr(data, "download", False):
        yield from _missing("dataset.root", root, is_folder=True)
    yield from _missing("dataset.csv", csv, is_folder=False)
    # What is no file may be the name of published weights.
    if config.stage not in _SAVED and backbone.name in preset_names("backbone"):
        yield from _weights(backbone.weights)
    yield from _missing("backbone.vectors", getattr(backbone, "vectors", None), is_folder=False)
    yield from _missing("prune.source", config.prune_run.source, is_folder=True)
    if config.exclude is not None:
        path = Path(config.exclude).expanduser()
        yield (
            not os.path.exists(path),
            f"exclude={config.exclude} does not exist",
            "give a run folder or its splits.json",
        )


def _export(config: Config) -> Iterator[Rule]:
    """What is exported can be written here."""
    if config.stage not in ("export", "full"):
        return
    formats = config.export.formats
    for name in formats or ():
        try:
            installed.need(name, "export.formats")
        except ConfigError as error:
            yield True, error.message, error.hint
    yield (
        config.stage == "full" and config.export.model is not None,
        "stage=full exports what it has pruned, but export.model names another model",
        "leave export.model out or take stage=export",
    )
    if config.stage == "export":
        yield formats == (), "stage=export has nothing to do with export.formats=[]", "name some formats"
        if formats is None:
            try:
                installed.need("onnx", "export.formats")
            except ConfigError as error:
                yield True, error.message.replace(" has ", " is null, which means "), error.hint
        yield from _missing("export.model", config.export.model, is_folder=True)


def _predict(config: Config) -> Iterator[Rule]:
    """There are a model and samples, and predictions can be written where they are asked for."""
    if config.stage != "predict":
        return
    given, output = config.predict.input, config.predict.output
    expected = "give a folder, files, a pattern, a CSV, or - for standard input"
    yield given is None, "stage=predict needs predict.input", expected
    places = (given,) if isinstance(given, str) else given or ()
    yield "-" in places and len(places) > 1, "predict.input names - beside other places", "give - alone"
    for place in places:
        yield not place, "predict.input is empty", expected
        path = Path(place).expanduser()
        is_there = os.path.lexists(path) or next(iglob(str(path), recursive=True), None) is not None
        missing = "matches no file" if has_magic(place) else "does not exist"
        yield place != "-" and not is_there, f"predict.input={place} {missing}", expected
    yield (
        output not in (None, "-") and not str(output).lower().endswith(ENDINGS),
        f"predict.output={output} ends in neither .csv nor .jsonl",
        "give such a file, or - for standard output",
    )
    if output not in (None, "-"):
        path = Path(str(output)).expanduser()
        read = [Path(place).expanduser() for place in places]
        # Of what a pattern matches a list is read, predictions in .jsonl are not.
        if path.suffix.lower() == ".csv" and path.exists():
            read += [Path(found) for place in read for found in iglob(str(place), recursive=True)]
        yield (
            any(os.path.realpath(path) == os.path.realpath(place) for place in read),
            f"predict.output={output} is in predict.input, and would be overwritten",
            "give another file",
        )
        yield path.is_dir(), f"predict.output={output} is a folder", "give a file that ends in .csv or .jsonl"
        yield (
            (reason := unwritable(path.parent)) is not None,
            f"predict.output={output}: {path.parent} {reason}",
            "give another place",
        )
    yield from _model("predict.model", config.predict.model)


def _evaluate(config: Config) -> Iterator[Rule]:
    """There is a model."""
    if config.stage == "evaluate":
        yield from _model("evaluate.model", config.evaluate.model)


def _model(option: str, value: str | None) -> Iterator[Rule]:
    """A folder, or an exported file that can be run here."""
    if value is None:
        return
    path, is_file = Path(value).expanduser(), value.lower().endswith(".onnx")
    yield (
        path.is_file() and not is_file,
        f"{option}={value} is a file that does not end in .onnx",
        "give the folder of a saved model, or an exported .onnx",
    )
    yield from _missing(option, value, is_folder=not is_file)
    yield (
        is_file and "onnxruntime" not in installed.installed(),
        f"{option}={value} needs onnx, onnxscript and onnxruntime",
        "pip install 'tascnet[export]'",
    )


def _network(config: Config) -> Iterator[Rule]:
    """A network without a file in conf/ is one of a library, or its module is there."""
    backbone, files = config.backbone, preset_names("backbone")
    # A saved model needs neither.
    if config.stage in ("compare", *_SAVED) or backbone.name in files:
        return
    # Takes seconds: it imports the library.
    from tascnet.models.library import check_name, find, is_dotted

    is_loaded = config.stage in ("tune", "full")
    try:
        check_name(backbone.name, files)
        if is_loaded and not is_dotted(backbone.name):
            find(backbone.name).check_weights(backbone.weights)
    except (ConfigError, WeightsError) as error:
        hint = error.hint and error.hint.replace("did you mean ", "did you mean backbone=")
        yield True, error.message, hint
    if is_loaded and is_dotted(backbone.name):
        yield from _weights(backbone.weights)


def _rivals(config: Config) -> Iterator[Rule]:
    """Rivals are networks for images, of a library or one's own, and their weights are known."""
    if config.stage not in ("tune", "full") or not config.tune.rivals:
        return
    yield (
        isinstance(config.dataset, Texts),
        f"tune.rivals are networks for images, but dataset={config.dataset.name} holds texts",
        "leave it out",
    )
    # Takes seconds: it imports the library.
    from tascnet.models.library import check_name, find, is_dotted

    files = preset_names("backbone")
    for rival in config.tune.rival_names:
        name, given = rival.network, rival.weights or "pretrained"
        try:
            if name not in files:
                check_name(name, files)
                if not is_dotted(name):
                    find(name).check_weights(given)
        except (ConfigError, WeightsError) as error:
            yield True, f"tune.rivals: {error.message}", error.hint


def _weights(given: str) -> Iterator[Rule]:
    if given in ("pretrained", "random"):
        return
    likely = closest(given, ("pretrained", "random"))
    hint = f"did you mean backbone.weights={likely}?" if likely else "give a file, pretrained or random"
    yield from _missing("backbone.weights", given, is_folder=False, hint=hint)


def _missing(option: str, value: str | None, *, is_folder: bool, hint: str | None = None) -> Iterator[Rule]:
    if value is None:
        return
    kind = "folder" if is_folder else "file"
    yield not value, f"{option} is empty", f"give a {kind}, or leave it out"
    path = Path(value).expanduser()
    try:
        wrong = not (path.is_dir() if is_folder else path.is_file())
        problem = f"is not a {kind}" if path.exists() else "does not exist"
    except OSError as error:
        wrong, problem = True, f"cannot be read ({error.strerror})"
    yield wrong, f"{option}={value} {problem}", hint or f"give an existing {kind}"
