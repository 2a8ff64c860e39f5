"""The moving average of weights, by hand."""

import pytest
import torch
from torch import nn

from tascnet.train.averaging import Average


def test_the_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.zero_()
    average = Average(model, 0.15)
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[1].num_batches_tracked.fill_(3)
        model[1].running_mean.fill_(2)
    average.update(model)
    # The first decay is 1 / 10, the second would be 2 / 11 and is the given 0.15.
    own = average.model.state_dict()
    assert float(own["0.weight"]) == pytest.approx(0.9)
    assert float(own["1.running_mean"]) == pytest.approx(1.8)
    assert int(own["1.num_batches_tracked"]) == 3
    average.update(model)
    assert float(average.model.state_dict()["0.weight"]) == pytest.approx(0.985)
    again = Average(model, 0.15)
    again.load_state_dict(average.state_dict())
    assert again.steps == 2
    assert torch.equal(again.model[0].weight, average.model[0].weight)  # type: ignore[arg-type]
