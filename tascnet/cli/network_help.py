"""What `--help backbones` and `--help backbone=<name>` print: all networks, and what one of them is."""

from collections.abc import Iterable, Iterator
from importlib.metadata import version

from rich import box
from rich.table import Table

from tascnet.errors import ConfigError, plural
from tascnet.options import Backbone, DigitsBackbone, ImageBackbone, shown
from tascnet.presets import preset_names
from tascnet.run.console import output

# How many layers that are not cut for one reason are printed.
_NAMES_SHOWN = 6
# How many reasons why layers are not cut are printed.
_REASONS_SHOWN = 4


def print_networks() -> None:
    """All networks by name."""
    from tascnet.models.library import timm_families, torchvision_names

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("family")
    table.add_column("backbone=", overflow="fold")
    table.add_row("small", ", ".join(preset_names("backbone")))
    table.add_row(f"torchvision {version('torchvision')}", ", ".join(torchvision_names()))
    try:
        families = timm_families()
        table.add_row(f"timm {version('timm')}", "timm/<model>, or timm/<model>.<weights>:")
        for family, models in families.items():
            table.add_row(family, ", ".join(models))
    except ConfigError as error:
        table.add_row("timm", f"not installed: {error.hint}")
    table.add_row("your own", "my_nets.Net: a class or function of my_nets.py in the working folder")
    output().print(table)
    _print("--help backbone=<name> prints what a network costs, and its weights.")


def print_network(options: Backbone) -> None:
    """What a network costs, which images it takes, its weights, its blocks, and what cannot be cut.

    Raises:
        ConfigError: there is no such network, or it cannot become a chain.
    """
    for line in _lines(options):
        _print(line)


def _lines(options: Backbone) -> Iterator[str]:
    import torch

    from tascnet.measure.complexity import complexity
    from tascnet.measure.uncut import reasons
    from tascnet.models.build import sketch
    from tascnet.models.info import info_of
    from tascnet.models.preprocessing import Preprocessing
    from tascnet.surgery.trace import Trace

    chain = sketch(options)
    expected = info_of(chain).preprocessing
    kind = torch.float32 if isinstance(expected, Preprocessing) else torch.int64
    example = torch.zeros(expected.example_shape, dtype=kind)
    # FLOPs are counted where numbers are, whichever they are.
    chain.to_empty(device="cpu")
    cost, trace = complexity(chain, example), Trace(chain, example)
    yield f"{options.name}: {cost.params:,} parameters, {cost.flops:,} FLOPs ({cost.counted.split(';')[0]})"
    if isinstance(expected, Preprocessing):
        channels = "x".join(map(str, expected.example_shape[1:]))
        yield (
            f"input: {channels}, resized to {expected.resize} ({expected.interpolation}, {expected.crop}), "
            f"mean {shown(expected.mean)}, std {shown(expected.std)}"
        )
    yield from _weights(options)
    yield f"{plural(len(chain), 'block')}: {', '.join(name for name, _ in chain.named_children())}"
    filters = sum(group.channels for group in trace.groups)
    yield f"{filters:,} filters in {plural(len(trace.groups), 'group')} of layers that are cut together"
    kept = reasons(trace, lambda _: None)
    for reason, layers in list(kept.items())[:_REASONS_SHOWN]:
        yield f"not cut, {reason}: {_some(layers)}"
    if more := sum(map(len, list(kept.values())[_REASONS_SHOWN:])):
        yield f"not cut for other reasons: {plural(more, 'layer')}"


def _weights(options: Backbone) -> Iterator[str]:
    from tascnet.models.library import find, is_dotted

    if not isinstance(options, ImageBackbone) or options.name in preset_names("backbone"):
        own = "pretrained (on the digits), " if isinstance(options, DigitsBackbone) else ""
        yield f"weights: {own}a file, or random"
        return
    if is_dotted(options.name):
        yield "weights: as its code gives them, or a file"
        return
    entry = find(options.name)
    for tag, published in entry.published.items():
        note = " (pretrained)" if tag == entry.default else ""
        images = published.images
        yield (
            f"backbone.weights={tag}{note}: {images.size} px, resized to {images.resize}, "
            f"{published.num_classes} classes, licence {published.licence}"
        )
    if not entry.published:
        yield "weights: none are published; a file, or random"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _NAMES_SHOWN
    return ", ".join(listed[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _print(text: str) -> None:
    output().print(text, markup=False, highlight=False, soft_wrap=True)
