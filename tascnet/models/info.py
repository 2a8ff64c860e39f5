"""What a network needs to be used: the images or texts that it expects, and where it comes from."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from tascnet.errors import ConfigError
from tascnet.models.text import TextPreprocessing

_INTERPOLATIONS = ("bilinear", "bicubic")
_LARGEST_SIDE = 16_384


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image to a network's input.

    Args:
        size: side of the square that the network sees, in pixels.
        resize: shorter side of the image before the square is cropped, in pixels.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        interpolation: `bilinear` or `bicubic`.

    Raises:
        ConfigError: a value has the wrong type or lies outside its bounds.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            _check_side(name, getattr(self, name))
        if self.resize < self.size:
            raise ConfigError(
                f"resize is {self.resize} pixels, but at least the size of {self.size} is expected"
            )
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"mean has {len(self.mean)} channels and std {len(self.std)}, but as many are expected"
            )
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std}, but numbers above zero are expected")
        if self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(
                f"interpolation is {self.interpolation!r}, "
                f"but one of {', '.join(_INTERPOLATIONS)} is expected"
            )

    @property
    def channels(self) -> int:
        """How many channels the network's input has."""
        return len(self.mean)

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """The shape `1 x c x h x w` of one sample."""
        return (1, self.channels, self.size, self.size)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON content."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a field is missing, unknown or wrong.
        """
        return cls(**_exactly_the_fields(cls, content))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is stored beside a saved network.

    Args:
        backbone: name of the chain that it was made from.
        preprocessing: the images or texts that it expects.
        class_names: names of its outputs, in order.
        weights: which weights it started from.
        licence: the licence of those weights.

    Raises:
        ConfigError: a value has the wrong type.
    """

    backbone: str
    preprocessing: Preprocessing | TextPreprocessing
    class_names: tuple[str, ...]
    weights: str
    licence: str

    def __post_init__(self) -> None:
        for name in ("backbone", "weights", "licence"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, but a text is expected")
        if not isinstance(self.preprocessing, Preprocessing | TextPreprocessing):
            raise ConfigError(f"preprocessing is {self.preprocessing!r}, but a Preprocessing is expected")
        object.__setattr__(self, "class_names", _texts("class_names", self.class_names))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON content."""
        return {
            "backbone": self.backbone,
            "preprocessing": self.preprocessing.to_dict(),
            "class_names": list(self.class_names),
            "weights": self.weights,
            "licence": self.licence,
        }

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a field is missing, unknown or wrong.
        """
        values = _exactly_the_fields(cls, content)
        preprocessing = _read_preprocessing(values["preprocessing"])
        return cls(**{**values, "preprocessing": preprocessing})


def _read_preprocessing(content: Any) -> Preprocessing | TextPreprocessing:
    """Of texts where there is a vocabulary, else of images."""
    is_text = isinstance(content, Mapping) and "vocabulary" in content
    return TextPreprocessing.from_dict(content) if is_text else Preprocessing.from_dict(content)


def _exactly_the_fields(cls: type[Any], content: Any) -> dict[str, Any]:
    expected = {field.name for field in fields(cls)}
    if not isinstance(content, Mapping) or set(content) != expected:
        came = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ConfigError(f"{cls.__name__} needs exactly the fields {sorted(expected)}, but got {came}")
    return dict(content)


def _check_side(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_SIDE:
        raise ConfigError(f"{name} is {value!r}, but a whole number from 1 to {_LARGEST_SIDE} is expected")


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or not values or not all(map(_is_number, values)):
        raise ConfigError(f"{name} is {values!r}, but one finite number for each channel is expected")
    return tuple(float(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{name} is {values!r}, but a list of texts is expected")
    return tuple(values)
