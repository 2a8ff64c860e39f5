"""Lists in MATLAB files, as two published data sets have them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tascnet.errors import DataError


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """One list of a MATLAB file, as an array of one axis.

    Raises:
        DataError: the file cannot be read or holds no such list.
    """
    # Its import takes a while, and most data sets do without it.
    from scipy.io import loadmat

    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True)[key])
    # SciPy's reader raises errors of many types on damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} holds no list {key} ({reason})", "take the file as published") from error
