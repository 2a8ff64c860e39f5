"""Which networks of torchvision and timm can be converted, cut, saved and loaded again.

Each network has random weights, with affine values and statistics that let every layer count. It is converted
to a chain, whose outputs are compared with the module's. Half of every group of channels is cut, and the
outputs are compared with those of the uncut network in which nothing reads these channels; statistics that
run over channels are those of the kept ones. That needs no knowledge of how the groups were found.

Networks that multiply activations with each other (attention) or have fewer than `CONVS` convolutions are
listed, but not judged: they are refused, or converted right.
"""

import argparse
import copy
import math
import random
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tascnet
from benchmarks import common
from benchmarks.common import Row, collect, new_table
from tascnet.errors import ConfigError, TascnetError, first_line
from tascnet.measure import compare_latency, complexity
from tascnet.models.conversion import convert
from tascnet.models.inspect import hooked
from tascnet.models.library import find
from tascnet.report.numbers import percent
from tascnet.run.files import write_text
from tascnet.surgery import Trace, narrow
from tascnet.train.setting import computing

# Sides of the square that a network is tried with, the smallest first, in pixels.
SIDES = (64, 96, 128)
# Of a network that counts as convolutional.
CONVS = 4
# Products of two activations.
PRODUCTS = ("bmm", "scaled_dot", "einsum", "baddbmm")
# Largest relative difference of outputs that are not equal to the last bit.
CLOSE = 1e-5
# Parts of names that do not tell families apart.
PREFIXES = re.compile(r"^(tf|hf|test|legacy|gluon)_")
CLASSES = 10
# Where packages lie on this machine.
_FOLDERS = re.compile(r"\S*site-packages/")
START, END = "<!-- table -->", "<!-- end of table -->"
TIMED = {"repeats": 30, "max_seconds": 20.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument(
        "--networks", nargs="+", help="names; all of torchvision and one of each family of timm"
    )
    parser.add_argument("--speed", action="store_true", help="time each chain beside its module")
    parser.add_argument(
        "--write", type=Path, help="page in which the table is replaced, such as docs/backbones.md"
    )


def run(args: argparse.Namespace) -> None:
    """One row for each network."""
    folder = common.open_results(args)
    keys: list[Row] = [{"network": name, "speed": args.speed} for name in args.networks or all_networks()]
    with computing("cpu", args.threads):
        rows = collect(folder, keys, _row, "networks")
    judged = [row for row in rows if row["is_judged"]]
    common.report(args, folder, rows, summary(judged), _table(judged), _others(rows))
    if args.write:
        text = args.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        _, end, after = rest.partition(END)
        if not end:
            raise ConfigError(f"{args.write} has no place for a table", f"mark it with {START} and {END}")
        write_text(args.write, f"{before}{START}\n{markdown(rows)}\n{END}{after}")


def all_networks() -> list[str]:
    """All classifiers of torchvision, and of each family of timm the one with the fewest parameters."""
    import timm

    smallest: dict[tuple[str, str], tuple[int, str]] = {}
    for module in timm.list_modules():
        for name in timm.list_models(module=module):
            family = re.match("[a-z]*", PREFIXES.sub("", name))
            assert family is not None
            with torch.device("meta"):
                params = sum(p.numel() for p in timm.create_model(name).parameters())
            key = module, family[0]
            smallest[key] = min(smallest.get(key, (params, name)), (params, name))
    ours = torchvision.models.list_models(module=torchvision.models)
    return [*ours, *sorted(f"timm/{name}" for _, name in smallest.values())]


def original(name: str) -> nn.Module:
    """The module of that name with random weights, in eval mode."""
    library, _, bare = name.rpartition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "timm":
            import timm

            module: nn.Module = timm.create_model(bare, num_classes=CLASSES)
        else:
            # Some of them have further heads that are used in training alone.
            module = torchvision.models.get_model(bare, weights=None, num_classes=CLASSES)
        return shaken(module)


def shaken(module: nn.Module) -> nn.Module:
    """The module in eval mode, with random affine values, factors of layers, and statistics."""
    for name, parameter in module.named_parameters():
        if parameter.numel() == max(parameter.shape, default=1):
            is_offset = name.endswith(("bias", "beta"))
            nn.init.normal_(parameter, 0.0, 0.1) if is_offset else nn.init.uniform_(parameter, 0.5, 1.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return module.eval()


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Networks that were judged, that hold in every column, and whose outputs are equal to the last bit."""
    parts = {
        "torchvision": [row for row in rows if "/" not in row["network"]],
        "timm": [row for row in rows if "/" in row["network"]],
    }
    return {
        name: {
            "judged": len(part),
            "hold": sum(row["holds"] for row in part),
            "equal": sum(row.get("difference") == 0.0 for row in part),
        }
        for name, part in parts.items()
    }


@torch.no_grad()
def _row(key: Row) -> Row:
    module = original(key["network"])
    example = smallest_image(key["network"], module)
    row: Row = {
        "is_judged": is_convolutional(module, example),
        "side": example.shape[-1],
        "holds": False,
    }
    started = time.perf_counter()
    try:
        with torch.enable_grad():
            converted = convert(module, example)
        row |= {"seconds": time.perf_counter() - started, "rewritten": list(converted.rewritten)}
        with torch.enable_grad():
            chain = tascnet.backbone(module, example)
        images = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(1))
        row |= {"difference": _difference(chain(images), module(images)), "blocks": len(chain)}
        row |= _cut(chain, example, images) | {"is_restored": _is_restored(chain, images)}
    # A bug shall not hide the other networks.
    except Exception as error:
        kind = "" if isinstance(error, TascnetError) else f"{type(error).__name__}: "
        return row | {"reason": kind + first_line(error)}
    row["holds"] = max(row["difference"], row["cut_difference"]) <= CLOSE and row["is_restored"]
    if key["speed"]:
        nets = {"module": module.to(memory_format=torch.channels_last)}  # type: ignore[call-overload]
        nets["chain"] = chain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        timed = compare_latency(nets, _image(max(example.shape[-1], 128)), **TIMED)  # type: ignore[arg-type]
        row["slowdown"] = timed["chain"].median_ms / timed["module"].median_ms - 1
    return row


def smallest_image(name: str, module: nn.Module) -> Tensor:
    """Noise `1 x 3 x h x h` of the smallest of `SIDES` that a network takes, else of its own size."""
    return next((x for x in map(_image, SIDES) if _takes(module, x)), _image(find(name).images.size))


@torch.no_grad()
def is_convolutional(module: nn.Module, example: Tensor) -> bool:
    """Whether a module has convolutions enough and multiplies no activations with each other."""
    convs = sum(isinstance(layer, nn.Conv2d) for layer in module.modules())
    products = _Products()
    with products:
        module(example)
    return convs >= CONVS and products.count == 0


def _image(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def _takes(module: nn.Module, images: Tensor) -> bool:
    try:
        return bool(module(images).isfinite().all())
    # A network may fail in any way on an image of another size than its own.
    except Exception:
        return False


class _Products(TorchDispatchMode):
    """Counts products of activations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(word in str(func) for word in PRODUCTS)
        return func(*args, **(kwargs or {}))


def _difference(output: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest value expected."""
    return float((output - expected).abs().max() / expected.abs().max())


def _cut(chain: nn.Sequential, example: Tensor, images: Tensor) -> Row:
    """What can be cut, and how far a cut network is from the uncut one in which nothing reads it."""
    trace = Trace(chain, example)
    generator = random.Random(0)
    keep = {
        group.name: sorted(generator.sample(range(group.width), math.ceil(group.width / 2)))
        for group in trace.groups
    }
    smallest, halved = copy.deepcopy(chain), copy.deepcopy(chain)
    narrow(smallest, trace, {group.name: [0] for group in trace.groups})
    narrow(halved, trace, keep)
    expected = masked_output(chain, trace, keep, images)
    flops = complexity(chain, example).flops
    return {
        "groups": len(trace.groups),
        "inexact": sum(not group.is_exact for group in trace.groups),
        "reachable": 1 - complexity(smallest, example).flops / flops,
        "cut_difference": _difference(halved(images), expected),
    }


def masked_output(
    chain: nn.Sequential, trace: Trace, keep: Mapping[str, Sequence[int]], images: Tensor
) -> Tensor:
    """Outputs of a chain in which nothing reads the channels that are not kept.

    The weights of their readers are zero, and layers whose statistics run over channels leave them out.

    Args:
        keep: by group, the units that are kept.
    """
    masked = copy.deepcopy(chain)
    removed: dict[str, set[int]] = {}
    for group in trace.groups:
        units = sorted(set(range(group.width)) - set(keep[group.name]))
        for name, places in group.inputs.items():
            weight: Any = masked.get_submodule(name).weight
            dim = 0 if isinstance(masked.get_submodule(name), nn.ConvTranspose2d) else 1
            weight.index_fill_(dim, places[units].flatten(), 0.0)
        for name in group.mixers:
            if name in group.passed:
                removed.setdefault(name, set()).update(group.passed[name][units].flatten().tolist())
    with ExitStack() as stack:
        hooks = (
            masked.get_submodule(name).register_forward_hook(partial(_over_kept, gone))
            for name, gone in removed.items()
        )
        stack.enter_context(hooked(hooks))
        result: Tensor = masked(images)
    return result


def _over_kept(gone: set[int], layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The output of a layer whose statistics run over the channels that are left, zero for the others."""
    x = inputs[0]
    dim = next(d for d in (-1, 1) if x.shape[d] == layer.weight.numel())
    kept = torch.tensor([i for i in range(x.shape[dim]) if i not in gone])
    small = copy.deepcopy(layer)
    small._forward_hooks.clear()
    for name, parameter in layer.named_parameters():
        parameter = parameter.flatten()[kept]
        shape = [len(kept) if size == x.shape[dim] else size for size in getattr(layer, name).shape]
        setattr(small, name, nn.Parameter(parameter.reshape(shape)))
    if isinstance(small, nn.LayerNorm):
        small.normalized_shape = (len(kept),)
    elif hasattr(small, "num_channels"):
        small.num_channels = len(kept)
    return torch.zeros_like(output).index_copy(dim, kept, small(x.index_select(dim, kept)))


def _is_restored(chain: nn.Sequential, images: Tensor) -> bool:
    """Whether a saved network, loaded again, has the same outputs to the last bit."""
    with tempfile.TemporaryDirectory() as folder:
        tascnet.save(chain, folder)
        return torch.equal(tascnet.load(folder)(images), chain(images))


def _cells(row: Row) -> Iterator[str]:
    yield row["network"]
    if "difference" not in row:
        yield from ("no", *[""] * 6, re.sub(_FOLDERS, "", row["reason"]))
        return
    exact = row["difference"] == 0.0
    yield "yes"
    yield "yes" if exact else f"{row['difference']:.0e}"
    yield from (str(row.get(name, "")) for name in ("blocks", "groups"))
    yield percent(row["reachable"]) if "reachable" in row else ""
    yield f"{row['cut_difference']:.0e}" if "cut_difference" in row else ""
    yield ("yes" if row["is_restored"] else "no") if "is_restored" in row else ""
    # Of the same remark on several layers the first layer and their number.
    remarks: dict[str, list[str]] = {}
    for remark in row["rewritten"]:
        layer, _, text = remark.rpartition(": ")
        remarks.setdefault(text, []).append(layer)
    parts = (f"{text}{_layers(layers)}" for text, layers in remarks.items())
    yield re.sub(_FOLDERS, "", row.get("reason") or ", ".join(parts))


def _layers(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f" ({names[0]}{more})" if names[0] else ""


_TEXTS = ("network", "converts", "equal")
_NUMBERS = ("blocks", "groups", "FLOPs that can go", "half cut", "restored", "remark")


def _table(rows: Sequence[Row]) -> Table:
    table = new_table("Networks that were judged", _TEXTS, _NUMBERS)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _others(rows: Iterable[Row]) -> Table:
    table = new_table("Not judged: attention, or too few convolutions", _TEXTS, _NUMBERS)
    for row in rows:
        if not row["is_judged"]:
            table.add_row(*_cells(row))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """Both tables, and a line of figures."""
    lines = []
    for is_judged in (True, False):
        part = [row for row in rows if row["is_judged"] == is_judged]
        if not is_judged:
            lines += ["", "Not judged (attention, or too few convolutions): refused, or converted right.", ""]
        else:
            for library, counts in summary(part).items():
                judged, hold, equal = counts["judged"], counts["hold"], counts["equal"]
                lines.append(f"{library}: {judged} networks, {hold} hold, {equal} equal to the last bit.  ")
            lines.append("")
        lines.append("| " + " | ".join((*_TEXTS, *_NUMBERS)) + " |")
        lines.append("|" + " --- |" * len((*_TEXTS, *_NUMBERS)))
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in _cells(row)) + " |" for row in part]
    return "\n".join(lines)
