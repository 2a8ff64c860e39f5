"""Whether an exported file computes what its network does, on samples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.errors import ExportError, plural
from tascnet.models.info import info_of
from tascnet.models.inspect import evaluating
from tascnet.models.text import TextPreprocessing

# Inputs as the preprocessing returns them, `n x ...`, or what it takes: upright images `H x W x 3`, or texts.
Samples: TypeAlias = Tensor | Sequence[NDArray[np.uint8]] | Sequence[str]

# A sample has no clear class where its two best outputs are closer than this share of the tolerance: there
# float32 decides by the order in which it adds.
TIE = 0.1
_ROUNDING = 1e-6
_BATCH = 16
# Height and width of made-up images.
_SIDES = ((96, 128), (200, 150), (64, 64), (333, 240))


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """An exported file beside its network.

    Args:
        samples: that were compared.
        equal_classes: share of them with the same class.
        largest_difference: of any output from the network's.
        spread: of the network's outputs: the largest minus the least.
    """

    samples: int
    equal_classes: float
    largest_difference: float
    spread: float


def check_float(
    network: nn.Sequential,
    run: Callable[[Any], Tensor],
    samples: Samples,
    *,
    tolerance: float,
    takes_pixels: bool = False,
) -> Deviation:
    """Compare a file with its network, which runs as it is: on its device, in its memory format.

    Args:
        network: a chain with its `info`.
        run: from a batch to outputs, such as a `Runnable`.
        samples: at least one.
        tolerance: largest difference of an output, as a share of the spread of all of the network's outputs.
        takes_pixels: `run` takes upright images of one size, `n x H x W x 3`, and prepares them itself.

    Raises:
        ExportError: an output differs by more; or a class differs where the network's two best outputs are
            further apart than a tenth of that.
    """
    inputs = as_inputs(network, samples)
    wanted = outputs_of(network, inputs)
    batches: Iterable[Any] = inputs.split(_BATCH)
    if takes_pixels:
        batches = (np.asarray(image)[None] for image in samples)
    return check_outputs(wanted, torch.cat([run(batch) for batch in batches]), tolerance)


def check_outputs(wanted: Tensor, found: Tensor, tolerance: float) -> Deviation:
    """Compare the outputs of a network and of its file for the same samples, `n x classes`, as `check_float`.

    Raises:
        ExportError: they differ.
    """
    compared = compare(wanted, found)
    # Rounding of float32, where all outputs are nearly the same.
    allowed = tolerance * compared.spread + _ROUNDING * wanted.abs().max().item()
    # Written so that a difference that is no number is refused.
    if not compared.largest_difference <= allowed:
        raise ExportError(
            f"an output of the exported file differs by {compared.largest_difference:.2g} from the "
            f"network's, expected at most {allowed:.2g} ({tolerance:g} of the spread of outputs)"
        )
    best = wanted.topk(min(2, wanted.shape[1]), dim=1).values
    is_clear = best[:, 0] - best[:, -1] > TIE * allowed
    different = int(((wanted.argmax(1) != found.argmax(1)) & is_clear).sum())
    if different:
        of = f"{plural(different, 'sample')} of {len(wanted)}"
        raise ExportError(f"the exported file gives {of} another class than the network")
    return compared


def compare(wanted: Tensor, found: Tensor) -> Deviation:
    """Two outputs of the same samples, `n x classes`.

    Raises:
        ExportError: their shapes differ.
    """
    if wanted.shape != found.shape:
        raise ExportError(f"the exported file gives {tuple(found.shape)}, expected {tuple(wanted.shape)}")
    return Deviation(
        samples=len(wanted),
        equal_classes=(wanted.argmax(1) == found.argmax(1)).double().mean().item(),
        largest_difference=(wanted - found).abs().max().item(),
        spread=(wanted.max() - wanted.min()).item(),
    )


def as_inputs(network: nn.Sequential, samples: Samples) -> Tensor:
    """Samples as the network takes them, `n x ...`, on the CPU."""
    if isinstance(samples, Tensor):
        return samples.cpu()
    preprocessing = info_of(network).preprocessing
    return torch.stack([preprocessing(sample) for sample in samples])  # type: ignore[arg-type]


@torch.no_grad()
def outputs_of(network: nn.Sequential, inputs: Tensor) -> Tensor:
    """The network's outputs in eval mode, float32, on the CPU; the network is left as it was."""
    place = next(iter(network.parameters()), torch.empty(0)).device
    with evaluating(network):
        return torch.cat([network(batch.to(place)).float().cpu() for batch in inputs.split(_BATCH)])


def made_up_samples(network: nn.Sequential, count: int = 8, *, seed: int = 0) -> Samples:
    """Blurred noise as upright images of several sizes, or texts of random words, where there are no data."""
    preprocessing = info_of(network).preprocessing
    generator = np.random.default_rng(seed)
    if isinstance(preprocessing, TextPreprocessing):
        words = generator.choice(preprocessing.vocabulary, (count, preprocessing.max_tokens))
        return [" ".join(row) for row in words]
    images = []
    for number in range(count):
        coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, 9, 7)))
        size = _SIDES[number % len(_SIDES)]
        smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255)
        images.append(smooth[0].permute(1, 2, 0).round().to(torch.uint8).numpy())
    return images
