"""What a network needs to be used: the images or texts that it expects, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tascnet.errors import ConfigError
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import Backbone
from tascnet.run.records import to_json

if TYPE_CHECKING:
    from torch import nn

Chain = TypeVar("Chain", bound="nn.Sequential")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is stored with a saved network.

    Args:
        backbone: name of the network that it was made from.
        preprocessing: the images or texts that it expects.
        class_names: names of its outputs, in order.
        weights: which weights it started from.
        licence: the licence of those weights.
        held_out: digest of the data set and of the validation and test samples, which it has not been
            trained on; None where it is unknown.
        first_searched: index of the first block that stage tune could change; None where it is unknown.

    Raises:
        ConfigError: a value has the wrong type.
    """

    backbone: str
    preprocessing: Preprocessing | TextPreprocessing
    class_names: tuple[str, ...]
    weights: str
    licence: str
    held_out: str | None = None
    first_searched: int | None = None

    def __post_init__(self) -> None:
        kinds = (
            *(("backbone", str, "a text"), ("weights", str, "a text"), ("licence", str, "a text")),
            ("held_out", str | None, "a text or null"),
            ("first_searched", int | None, "a whole number or null"),
            ("preprocessing", Preprocessing | TextPreprocessing, "a Preprocessing"),
            ("class_names", list | tuple, "a list of texts"),
        )
        for name, kind, words in kinds:
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ConfigError(f"{name} is {value!r}, expected {words}")
        if not all(isinstance(name, str) for name in self.class_names):
            raise ConfigError(f"class_names is {self.class_names!r}, expected a list of texts")
        if self.first_searched is not None and self.first_searched < 0:
            raise ConfigError(f"first_searched is {self.first_searched}, expected a number from 0")
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON content."""
        return dict(to_json(self))

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The inverse of `to_dict`; `held_out` and `first_searched` may be absent.

        Raises:
            ConfigError: a field is missing, unknown or wrong.
        """
        if isinstance(content, Mapping):
            content = {"held_out": None, "first_searched": None, **content}
        values = _exactly_the_fields(cls, content)
        expected = values["preprocessing"]
        is_text = isinstance(expected, Mapping) and "vocabulary" in expected
        kind = TextPreprocessing if is_text else Preprocessing
        return cls(**{**values, "preprocessing": kind(**_exactly_the_fields(kind, expected))})


def with_info(network: Chain, info: ModelInfo, *, origin: Backbone | None = None) -> Chain:
    """`network` with the attributes that every network of tascnet has.

    Args:
        network: a chain.
        info: becomes the attributes `info`, `preprocessing` and `class_names`.
        origin: the options that it was made by, where it comes from `tascnet.backbone`.
    """
    attributes = {
        "info": info,
        "preprocessing": info.preprocessing,
        "class_names": info.class_names,
        "origin": origin,
    }
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


def info_of(network: Any) -> ModelInfo:
    """The attribute `info` of a network.

    Raises:
        ConfigError: it has none.
    """
    info = getattr(network, "info", None)
    if not isinstance(info, ModelInfo):
        raise ConfigError(
            "the network does not say which inputs and classes it has (`info`)",
            "take it through tascnet.backbone or tascnet.load",
        )
    return info


def _exactly_the_fields(cls: type[Any], content: Any) -> dict[str, Any]:
    expected = {field.name for field in fields(cls)}
    if not isinstance(content, Mapping) or set(content) != expected:
        came = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ConfigError(f"{cls.__name__} needs exactly the fields {sorted(expected)}, got {came}")
    return dict(content)
