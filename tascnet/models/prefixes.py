"""Where a network's tensors lie in a file: under which prefix, and what lies beside them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from tascnet.errors import printable
from tascnet.models.tensors import unfit

# Parts of names that torch puts between those of modules, when they are compiled or distributed.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Of weights averaged over the training steps.
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa)(?:[._]|$)", re.IGNORECASE)
# torchvision's first names of DenseNet's layers: `norm.1` is `norm1` today.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
# Entries that no layer reads in eval mode: batch counters, what the profiler thop leaves in each module.
_UNREAD = ("num_batches_tracked", "total_ops", "total_params")


def is_counter(name: str) -> bool:
    """Whether an entry only counts batches; old files lack it."""
    return name.endswith(_UNREAD[0])


def is_averaged(prefix: str) -> bool:
    """Whether the weights under a prefix are averaged ones (EMA)."""
    return _AVERAGED.search(prefix) is not None


def located(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Counter[str]]:
    """A file's state in today's names, and how many of the wanted ones lie under each prefix.

    Prefixes are such as `""`, `state_dict.` and `model.backbone.`.

    Raises:
        ValueError: two entries have one name.
    """
    named = _unwrapped(state, _WRAPPERS)
    counts = _prefixes(named, wanted)
    if len(wanted) not in counts.values():
        # A part of a network that was distributed has such a name in the midst of its own.
        with suppress(ValueError):
            other = _unwrapped(state, {*_WRAPPERS, "module"})
            found = _prefixes(other, wanted)
            if len(wanted) in found.values():
                return other, found
    return named, counts


def likeliest(found: Iterable[str], state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Of prefixes with all wanted names those to load: averaged weights last, then by equal shapes.

    There are several only where their tensors differ.
    """

    def rank(prefix: str) -> tuple[bool, int]:
        fit = sum(state[prefix + name].shape == tensor.shape for name, tensor in wanted.items())
        return not is_averaged(prefix), fit

    ranks = {prefix: rank(prefix) for prefix in found}
    first, *others = (prefix for prefix in ranks if ranks[prefix] == max(ranks.values()))
    return [
        first,
        *(
            prefix
            for prefix in others
            if not all(_is_equal(state[first + name], state[prefix + name]) for name in wanted)
        ),
    ]


def beside(state: Iterable[str], prefix: str, wanted: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """What else a file holds: parts that are not of the network, with their tensors, and unexpected names.

    Heads for training alone (`aux1`, `AuxLogits`) are no part of the network in eval mode.
    """
    names = set(wanted)
    modules = {name[:end] for name in names for end in _ends(name)}
    parts: Counter[str] = Counter()
    unexpected = []
    for key in state:
        name = key.removeprefix(prefix)
        if not key.startswith(prefix):
            parts[_branch(key, prefix)] += 1
        elif name not in names and not name.endswith(_UNREAD):
            modules_above = (name[:end] for end in _ends(name))
            head = next((path for path in modules_above if "aux" in path.rpartition(".")[2].lower()), None)
            if head is None or head in modules:
                unexpected.append(name)
            else:
                parts[prefix + head] += 1
    return parts, unexpected


def _unwrapped(state: Mapping[str, Tensor], dropped: set[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = ".".join(part for part in key.split(".") if part not in dropped)
        name = _OLD_DENSENET.sub(r"\1\2.", name)
        if name in found:
            raise ValueError(f"it holds {printable(name, 200)} twice")
        found[name] = tensor
    return found


def _prefixes(state: Iterable[str], wanted: Iterable[str]) -> Counter[str]:
    names = set(wanted)
    parts = 1 + max((name.count(".") for name in names), default=0)
    counts: Counter[str] = Counter()
    for key in state:
        pieces = key.rsplit(".", parts)
        for first in range(max(0, len(pieces) - parts), len(pieces)):
            name = ".".join(pieces[first:])
            if name in names:
                counts[key[: len(key) - len(name)]] += 1
    return counts


def _is_equal(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and not unfit(one) and not unfit(two) and torch.equal(one, two)


def _ends(name: str) -> list[int]:
    """Where each part of a dotted name ends, but for the last."""
    return [match.start() for match in re.finditer(r"\.", name)]


def _branch(key: str, prefix: str) -> str:
    """The start of a name, up to the first part that is not the prefix's."""
    parts, common = key.split("."), prefix.split(".")
    depth = next((i for i, pair in enumerate(zip(parts, common, strict=False)) if pair[0] != pair[1]), 0)
    return ".".join(parts[: depth + 1])
