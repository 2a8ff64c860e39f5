"""tascnet: fit a pre-trained convolutional network to your images, then prune it.

data = tascnet.image_folder("photos")
network = tascnet.backbone("mobilenet_v2")
tuned = tascnet.tune(network, data, tascnet.Tune(max_trials=24), run="runs/photos/tune")
small = tascnet.prune(tuned.network, data, tascnet.Prune(flops_target=0.5), run="runs/photos/prune")
tascnet.save(small.network, "photos-model")
tascnet.export(small.network, "photos.onnx", data)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.data.named import (
        caltech101,
        caltech256,
        cifar10,
        datasets,
        digits,
        image_folder,
        image_list,
        movie_review,
        oxford_flowers102,
        stanford_dogs,
        subjectivity,
        text_lines,
    )
    from tascnet.errors import TascnetError
    from tascnet.exporting.predict import predict
    from tascnet.models.archive import load, save
    from tascnet.options import (
        Autotune,
        Export,
        HistoryPrune,
        Local,
        Measure,
        Prune,
        Ray,
        Recipe,
        RecipeChanges,
        StepChanges,
        Trainer,
        Tune,
    )
    from tascnet.presets import preset
    from tascnet.pruning.prune import prune
    from tascnet.train.backbone import backbone
    from tascnet.train.evaluate import evaluate
    from tascnet.train.export import export, export_all
    from tascnet.train.pretrain import pretrain
    from tascnet.tuning.tune import tune

__all__ = [
    "Autotune",
    "Export",
    "HistoryPrune",
    "Local",
    "Measure",
    "Prune",
    "Ray",
    "Recipe",
    "RecipeChanges",
    "StepChanges",
    "TascnetError",
    "Trainer",
    "Tune",
    "__version__",
    "backbone",
    "caltech101",
    "caltech256",
    "cifar10",
    "datasets",
    "digits",
    "evaluate",
    "export",
    "export_all",
    "image_folder",
    "image_list",
    "load",
    "movie_review",
    "oxford_flowers102",
    "predict",
    "preset",
    "pretrain",
    "prune",
    "save",
    "stanford_dogs",
    "subjectivity",
    "text_lines",
    "tune",
]

__version__ = "0.1.0"

# Importing torch takes seconds: the module of each name is imported when the name is first used.
_HOMES = {
    "TascnetError": "errors",
    "backbone": "train.backbone",
    "evaluate": "train.evaluate",
    "export": "train.export",
    "export_all": "train.export",
    "load": "models.archive",
    "predict": "exporting.predict",
    "preset": "presets",
    "pretrain": "train.pretrain",
    "prune": "pruning.prune",
    "save": "models.archive",
    "tune": "tuning.tune",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name) or ("options" if name[0].isupper() else "data.named")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
