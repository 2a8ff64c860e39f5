"""Corrections by least squares: exact where the rows say it all, none where they say nothing."""

import torch

from tascnet.inherit.least_squares import Evidence


def rows(count, seed=0, parts=2, width=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(parts, count, width, generator=generator)


def found(inputs, errors, *, has_offset=True):
    evidence = Evidence(has_offset=has_offset)
    for index in range(4):
        part = slice(index, None, 4)
        evidence.add(inputs[:, part], errors[:, part], judges=index == 3)
    return evidence.correction()


def test_a_linear_error_is_found_with_its_constant():
    inputs = rows(400)
    weights = torch.tensor([[[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]], [[0.0, 1.0], [2.0, 2.0], [-1.0, 0.0]]])
    constants = torch.tensor([[5.0, -7.0], [0.0, 1.0]])
    correction = found(inputs + 4, (inputs + 4) @ weights + constants[:, None])
    assert correction is not None
    # The smallest ridge, one in a thousand, shrinks the weights by about as much.
    torch.testing.assert_close(correction.weights.float(), weights, rtol=2e-3, atol=5e-3)
    assert correction.offsets is not None
    torch.testing.assert_close(correction.offsets.float(), constants, rtol=5e-3, atol=0.1)


def test_without_a_place_for_a_constant_none_is_found():
    inputs = rows(400)
    correction = found(inputs, 2 * inputs + 3, has_offset=False)
    assert correction is not None
    assert correction.offsets is None
    torch.testing.assert_close(
        correction.weights.float(), 2 * torch.eye(3).expand(2, 3, 3), rtol=0.1, atol=0.5
    )


def test_a_constant_alone_where_inputs_say_nothing():
    """Noise of 40 rows in 30 inputs: whatever is learnt of it is wrong elsewhere, but for its mean."""
    inputs, errors = rows(40, 1, 1, 30), rows(40, 2, 1, 2) + 10
    correction = found(inputs, errors)
    assert correction is not None
    assert not correction.weights.any()
    assert correction.offsets is not None
    torch.testing.assert_close(correction.offsets[0].float(), errors[0].mean(0))


def test_nothing_is_better_than_noise():
    inputs, errors = rows(40, 1, 1, 30), rows(40, 2, 1, 2)
    assert found(inputs, errors, has_offset=False) is None


def test_too_few_rows_to_judge_teach_nothing():
    evidence = Evidence(has_offset=True)
    assert evidence.correction() is None
    evidence.add(rows(8), rows(8), judges=False)
    assert evidence.correction() is None


def test_an_input_that_never_varies_is_left_alone():
    inputs = rows(400, parts=1)
    # In float32 its values are 1e4 and the next numbers on both sides, and the errors follow it.
    inputs[:, :, 1] = 1e4 + inputs[:, :, 1] / 1e3
    assert inputs[:, :, 1].unique().numel() > 2
    correction = found(inputs, inputs[:, :, :1] * 3 + inputs[:, :, 1:2] - 1e4)
    assert correction is not None
    assert correction.weights[0, 1].item() == 0.0


def test_an_input_that_varies_a_hundredth_of_a_thousandth_of_its_mean_is_used():
    inputs = rows(400, parts=1)
    inputs[:, :, 1] = 1e4 + inputs[:, :, 1] / 10
    correction = found(inputs, 3 * inputs[:, :, 1:2] - 3e4)
    assert correction is not None
    # The smallest ridge, one in a thousand, shrinks the weights by about as much.
    torch.testing.assert_close(
        correction.weights[0, :, 0].float(), torch.tensor([0.0, 3.0, 0.0]), rtol=2e-3, atol=2e-3
    )
