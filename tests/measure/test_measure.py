"""Counts by formula, accuracy by hand."""

import pytest
import torch
from torch import nn

from compress.measure.accuracy import accuracy, count_correct
from compress.measure.macs import count_macs, count_params


def test_macs_are_kernel_times_positions_times_channels() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    expected = 9 * 3 * 8 * 64 + 9 * 8 * 64 + 8 * 5  # BN, pooling and biases count nothing
    assert count_macs(net, (3, 16, 16)) == expected
    assert count_params(net) == (27 * 8 + 8) + 16 + 72 + 45


def test_attention_is_counted() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(6, 6, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.project(x.flatten(2))
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert count_macs(Attend(), (4, 2, 3)) == 4 * 6 * 6 + 2 * 4 * 4 * 6


def test_the_model_is_left_in_its_mode() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    count_macs(net, (1, 4, 4))
    assert net.training


def test_accuracy_in_percent() -> None:
    logits = torch.eye(10)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])
    batches = [(logits[:4], labels[:4]), (logits[4:], labels[4:])]
    top1, top5 = accuracy(nn.Identity(), batches)
    assert top1 == 80
    assert top5 >= top1


# Logits of seven classes, the label, and how many logits are larger: fewer than 5, and it is among the first five.
TABLE = [
    ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0], 0, 0),
    ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0], 3, 3),
    ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0], 4, 4),
    ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0], 5, 5),
    ([-1.0, -5.0, -3.0, -2.0, -7.0, -6.0, -4.0], 1, 4),
    ([-1.0, -5.0, -3.0, -2.0, -7.0, -6.0, -4.0], 5, 5),
    ([-1.0, -5.0, -3.0, -2.0, -7.0, -6.0, -4.0], 0, 0),
    ([0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], 1, 0),
]


def test_top_5_of_a_table_by_hand() -> None:
    """Whatever the batches: 3 of 8 are first, 6 of 8 among the first five."""
    logits, labels = torch.tensor([row[0] for row in TABLE]), torch.tensor([row[1] for row in TABLE])
    for size in (1, 3, 8):
        found = accuracy(nn.Identity(), zip(logits.split(size), labels.split(size), strict=True))
        assert found == (100 * 3 / 8, 100 * 6 / 8)
    for (row, label, larger), at in zip(TABLE, range(8), strict=True):
        assert sum(value > row[label] for value in row) == larger
        one = count_correct(nn.Identity(), [(logits[at : at + 1], labels[at : at + 1])])
        assert one.tolist() == [larger < 1, larger < 5, 1]


def test_equal_logits_are_no_better_than_chance() -> None:
    """A network that says the same of all classes is right once, and five times, in ten: a tie helps nobody."""
    found = accuracy(nn.Identity(), [(torch.zeros(10, 10), torch.arange(10))])
    assert found == (10, 50)


def test_of_few_classes_all_are_among_the_first_five() -> None:
    assert accuracy(nn.Identity(), [(torch.eye(3), torch.tensor([0, 0, 0]))]) == (pytest.approx(100 / 3), 100)


class Moody(nn.Module):
    """Right in evaluation, by dropout and statistics wrong in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return self.dropout(self.norm(x)) - (x.sum(1, keepdim=True) if self.training else 0)


def test_accuracy_is_that_of_evaluation_and_leaves_every_module_as_it_was() -> None:
    torch.manual_seed(0)
    model, labels = Moody(), torch.randint(4, (64,))
    logits = 5.0 + nn.functional.one_hot(labels, 4).float()
    model.train()
    model.dropout.eval()  # a mode of its own
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert accuracy(model, zip(logits.split(10), labels.split(10), strict=True)) == (100, 100)
    assert (model.training, model.norm.training, model.dropout.training) == (True, True, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
