"""Options of the presets in conf/, without Hydra."""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any, cast

import yaml  # type: ignore[import-untyped]

from tascnet.errors import ConfigError, closest, listed
from tascnet.options import (
    BACKBONES,
    DATASETS,
    TIMM,
    Autotune,
    Data,
    Digits,
    HistoryPrune,
    ImageBackbone,
    Local,
    Measure,
    Options,
    Prune,
    Ray,
    Texts,
    Trainer,
    Tune,
    make,
)

GROUPS = ("dataset", "backbone", "trainer", "tune", "prune", "measure", "executor")
# What suits networks of a library: their narrower layers are a small part of their FLOPs.
LIBRARY_SUITS: dict[str, dict[str, Any]] = {"prune": {"min_filters": 96}}


def preset(group: str, name: str, *, backbone: str | None = None, **changes: Any) -> Any:
    """The options of a preset: `preset("tune", "autotune", max_trials=40)` is an `Autotune`.

    Args:
        group: `dataset`, `backbone`, `trainer`, `tune`, `prune` or `measure`.
        name: of a file in that group of conf/. A trainer may also be that of a tune preset, and
            a backbone the name of any network.
        backbone: name of the network, whose options replace defaults that the preset does not set.
        changes: options in place of the preset's; a mapping changes a nested section in part.

    Raises:
        ConfigError: there is no such group, preset or option, or a value does not fit.
    """
    if group not in GROUPS:
        raise ConfigError(f"there is no group of presets {group!r}", f"take {listed(GROUPS)}")
    values = _merged(_section(group, name), changes)
    cls = _option_class(group, name, values)
    suits = {} if backbone is None else what_suits(backbone).get(group, {})
    known = {entry.name for entry in fields(cls)}
    return make(cls, _merged({key: value for key, value in suits.items() if key in known}, values))


def what_suits(backbone: str) -> dict[str, Any]:
    """By section, options that suit a network, in place of defaults."""
    if backbone in preset_names("backbone"):
        return _values("backbone", backbone, "suits")
    is_of_library = "." not in backbone or backbone.startswith(TIMM)
    return LIBRARY_SUITS if is_of_library else {}


def trainer_for(data: object) -> Trainer:
    """The default trainer for a data set."""
    name = "digits" if isinstance(data, Digits) else "text" if isinstance(data, Texts) else "default"
    return cast(Trainer, preset("trainer", name))


def _option_class(group: str, name: str, values: Mapping[str, Any]) -> type[Options]:
    if group == "dataset":
        return DATASETS.get(name, Data)
    if group == "backbone":
        return BACKBONES.get(name, ImageBackbone)
    if group == "tune":
        return Autotune if values.get("space") == "autotune" else Tune
    if group == "prune":
        return HistoryPrune if values.get("criterion") == "history" else Prune
    if group == "executor":
        return Ray if values.get("name") == "ray" else Local
    return Trainer if group == "trainer" else Measure


def _section(group: str, name: str) -> dict[str, Any]:
    if name in preset_names(group):
        return _values(group, name, group)
    if group == "backbone":
        return {"name": name}
    trainers = [
        other for other in preset_names("tune") if group == "trainer" and _values("tune", other, "trainer")
    ]
    if name in trainers:
        return _merged(_values("trainer", "default", "trainer"), _values("tune", name, "trainer"))
    offered = sorted([*preset_names(group), *trainers])
    likely = closest(name, offered)
    raise ConfigError(
        f"there is no preset {name!r} of {group}",
        f"did you mean {likely!r}?" if likely else f"take {listed(offered)}",
    )


def _values(group: str, name: str, section: str) -> dict[str, Any]:
    """A section of a file, merged with those of the files in its `defaults`."""
    text = (resources.files("tascnet_conf") / group / f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text) or {}
    before: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry in preset_names(group):
            before = _merged(before, _values(group, entry, section))
    is_global = re.search(r"^# *@package +_global_", text, re.MULTILINE)
    own = content.get(section, {}) if is_global else content if section == group else {}
    return _merged(before, own)


@cache
def preset_names(group: str) -> tuple[str, ...]:
    """The names of the files in a group of conf/."""
    files = (resources.files("tascnet_conf") / group).iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **changes, **both}
