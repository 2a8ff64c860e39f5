"""What an exported file says about itself: JSON texts by name, from which a stranger's are told apart."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import tascnet
from tascnet.errors import ConfigError, ExportError, first_line
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import FORMATS
from tascnet.run.files import parse_json
from tascnet.run.records import to_json

# Of one entry, in characters; the largest vocabulary takes some 8 MB.
_LONGEST = 1 << 24
_TOKENISER = (
    "Letters are lower-cased and lose their accents; words end at white space and at punctuation, which "
    "counts as a word (as by BERT). A word's number is its place in the vocabulary, or 1 ([UNK]). Texts are "
    "cut, or padded with 0 ([PAD]), to max_tokens."
)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is written into an exported file.

    Args:
        tascnet: version that wrote it.
        format: `onnx`, `onnx_int8`, `onnx_fp16`, `pt2`, `openvino` or `executorch`.
        preprocess: `inside`: it takes upright RGB pixels; `outside`: what the model's preprocessing returns.
        class_names: names of its outputs, in order.
        preprocessing: the images or texts that the network expects.
        backbone, weights, licence: of the network that it was made from.
        held_out: digest of the samples that it has not been trained on, as in `ModelInfo`; None: unknown.
        calibration: method that set the ranges of int8; None for other formats.
        float_layers: layers that int8 left in float.
        checked_on: processor and instruction set that it was checked on; empty where that is all one.
    """

    tascnet: str
    format: str
    preprocess: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | TextPreprocessing
    backbone: str
    weights: str
    licence: str
    held_out: str | None = None
    calibration: str | None = None
    float_layers: tuple[str, ...] = ()
    checked_on: str = ""

    @classmethod
    def of(cls, info: ModelInfo, *, format: str, preprocess: str) -> Self:
        """The metadata of a network; texts are always prepared outside.

        Raises:
            ExportError: the network does not name its classes, or a name is not UTF-8, as a folder's may be.
        """
        if not info.class_names:
            raise ExportError("the network does not name its classes", "train it on a data set first")
        for name in info.class_names:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                raise ExportError(f"the class name {name!r} is not valid UTF-8", "rename the class")
        is_text = isinstance(info.preprocessing, TextPreprocessing)
        return cls(
            tascnet=tascnet.__version__,
            format=format,
            preprocess="outside" if is_text else preprocess,
            class_names=info.class_names,
            preprocessing=info.preprocessing,
            backbone=info.backbone,
            weights=info.weights,
            licence=info.licence,
            held_out=info.held_out,
        )

    def encode(self) -> dict[str, str]:
        """A JSON text for each field; for texts also `tokeniser`, the rules in words."""
        content = to_json(self)
        if isinstance(self.preprocessing, TextPreprocessing):
            content["tokeniser"] = _TOKENISER
        return {name: json.dumps(value) for name, value in content.items()}

    @classmethod
    def decode(cls, texts: Mapping[str, str], path: Path) -> Self:
        """The inverse of `encode`; other entries are passed over.

        Args:
            texts: a file's metadata, from whomever.
            path: of the file.

        Raises:
            ExportError: an entry is missing or wrong.
        """
        names = [field.name for field in fields(cls)]
        if "tascnet" not in texts:
            raise ExportError(
                f"{path} was not exported by tascnet: nothing in it names its classes and preprocessing",
                "export the model with tascnet.export",
            )
        try:
            if missing := [name for name in names if name not in texts]:
                raise ValueError(f"there is no {missing[0]}")
            return cls._checked({name: _parsed(name, texts[name]) for name in names})
        except (ConfigError, TypeError, ValueError) as error:
            raise ExportError(
                f"{path} has wrong metadata ({first_line(error)})", "export the model again"
            ) from error

    @classmethod
    def _checked(cls, content: dict[str, Any]) -> Self:
        preprocessing = content["preprocessing"]
        if not isinstance(preprocessing, dict):
            raise ValueError("preprocessing is no object")
        kind = TextPreprocessing if "vocabulary" in preprocessing else Preprocessing
        # JSON has lists where options have tuples.
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in preprocessing.items()
        }
        made = kind(**values)
        plain = {name: value for name, value in content.items() if name != "preprocessing"}
        texts = ("class_names", "float_layers")
        for name, value in plain.items():
            parts = value if name in texts else [value]
            if name in ("held_out", "calibration") and value is None:
                continue
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                raise ValueError(f"{name} is {reprlib.repr(value)}")
        for name, choices in (("format", FORMATS), ("preprocess", ("inside", "outside"))):
            if plain[name] not in choices:
                raise ValueError(f"{name} is {reprlib.repr(plain[name])}")
        if not plain["class_names"]:
            raise ValueError("there are no class names")
        return cls(**{**plain, **{name: tuple(plain[name]) for name in texts}, "preprocessing": made})


def _parsed(name: str, text: str) -> Any:
    if len(text) > _LONGEST:
        raise ValueError(f"{name} has {len(text)} letters, expected at most {_LONGEST}")
    content = parse_json(text.encode())
    # JSON can name halves of characters, which no file takes.
    json.dumps(content, ensure_ascii=False).encode()
    return content
