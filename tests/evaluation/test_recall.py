"""Average recall, with answers known by hand."""

import pytest
import torch

from maskrcnn.evaluation.recall import average_recall, covered

OBJECTS = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])


def test_each_proposal_finds_one_object_and_the_best_pair_comes_first() -> None:
    """Two objects with IoU 1/3: the box on the first fits both, but is matched to the first only."""
    objects = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])
    exact, poor = [0.0, 0, 10, 10], [9.0, 0, 15, 10]
    assert covered(torch.tensor([exact]), objects).tolist() == [1, 0]
    found = covered(torch.tensor([poor, exact, exact]), objects)
    assert found.tolist() == pytest.approx([1, 0.6])


def test_without_proposals_nothing_is_found_and_without_objects_there_is_no_recall() -> None:
    assert covered(torch.zeros(0, 4), OBJECTS).tolist() == [0, 0]
    assert covered(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (0,)
    assert average_recall([])["AR"] == -1
    assert average_recall([torch.zeros(0)])["AR50"] == -1


def test_recall_is_averaged_over_the_thresholds_and_over_objects_not_images() -> None:
    """IoUs 1, 0.6 and 0: at 0.50, 0.55 and 0.60 two of three are found, at the other seven one."""
    figures = average_recall([torch.tensor([1.0, 0.6]), torch.tensor([0.0])])
    assert figures["AR"] == pytest.approx((3 * 2 + 7 * 1) / 30)
    assert figures["AR50"] == pytest.approx(2 / 3)
    assert figures["AR75"] == pytest.approx(1 / 3)
    assert figures["objects"] == 3
