"""tascnet: fit a pre-trained convolutional network to your images, then prune it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.models.archive import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, so it waits until somebody loads a model.
    if name == "load":
        from tascnet.models.archive import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
