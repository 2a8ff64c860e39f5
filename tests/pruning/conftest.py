"""What prunes the tiny network."""

from importlib import import_module

import pytest

from tascnet.options import Prune
from tascnet.pruning import prune
from tests.pruning.toy import DATA, QUICK, SMALL, network


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tmp_path, cache):
    """Prunes the network in a folder."""

    def call(options=None, *, data=DATA, start=None, name="run", **own):
        options = options or Prune(**SMALL)
        folder = None if name is None else tmp_path / name
        return prune(start or network(), data, options, cache=cache, run=folder, **QUICK | own)

    return call


@pytest.fixture
def interrupted(monkeypatch):
    """All epochs from now on are listed in it; the second one ends in Ctrl-C."""
    fit, epochs = import_module("tascnet.train.fit"), []
    finish = fit._Run.finish_epoch

    def failing(own, record):
        finish(own, record)
        epochs.append(None)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    def start():
        monkeypatch.setattr(fit._Run, "finish_epoch", failing)
        return epochs

    return start
