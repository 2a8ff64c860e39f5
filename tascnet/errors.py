"""The errors that users meet: one small tree, each with a hint of what to do."""

__all__ = [
    "ArchiveError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "RunFolderError",
    "SurgeryError",
    "TascnetError",
    "TrainingDiverged",
    "WeightsError",
]


class TascnetError(Exception):
    """What was wrong and what was expected, with a hint of what to do.

    Args:
        message: what was wrong and what was expected, without a full stop.
        hint: what the user can do about it, without a full stop.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}: {hint}")


class ConfigError(TascnetError):
    """An option is unknown, has the wrong type, or contradicts another one."""


class DataError(TascnetError):
    """A data set is missing, empty, unreadable or too small for the split asked for."""


class WeightsError(TascnetError):
    """A weight file is missing, unreadable or belongs to another architecture."""


class ArchiveError(TascnetError):
    """A saved model is missing, truncated, corrupt or not one of ours."""


class SurgeryError(TascnetError):
    """A change of structure is impossible or did not give the widths asked for."""


class TrainingDiverged(TascnetError):
    """The loss became infinite or not a number."""


class RunFolderError(TascnetError):
    """A run folder belongs to another configuration, or lacks what a stage needs."""


class BudgetError(TascnetError):
    """A job would need more disk or memory than the limit allows."""
