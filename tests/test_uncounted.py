"""A run whose network holds an operator that no formula counts says so: in the log, and in plan.json."""

from pathlib import Path

import pytest
from conftest import run_command

from compress.io.files import read_json

CODE = """
import torch
from torch import nn


class Near(nn.Module):
    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(12, 16))

    def forward(self, x):
        return torch.cdist(x, self.prototypes)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(16, 12, batch_first=True)

    def forward(self, x):
        return self.lstm(x[:, None])[0][:, 0]


class Net(nn.Module):
    def __init__(self, num_classes, in_channels, layer):
        super().__init__()
        self.stem, self.body = nn.Conv2d(in_channels, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.layer, self.head = {"near": Near, "sequence": Sequence}[layer](), nn.Linear(12, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.layer(self.body(torch.relu(self.stem(x))).mean((2, 3)))))
"""
AROUND = 64 * 9 * (1 * 16 + 16 * 16) + 12 * 10


@pytest.mark.parametrize(
    ("layer", "macs", "uncounted"),
    [
        ("near", AROUND, {"layer": ["cdist"]}),
        pytest.param("sequence", AROUND + 4 * 12 * (16 + 12), {}, marks=pytest.mark.slow),
    ],
)
def test_a_run_names_what_its_macs_leave_out(layer: str, macs: int, uncounted: object, tmp_path: Path) -> None:
    (tmp_path / "named_nets.py").write_text(CODE)
    done = run_command(
        tmp_path, "model=custom", "model._target_=named_nets.Net", f"+model.layer={layer}", "preserve_ratio=0.6",
        "experiment=quick", "device=cpu", "plots=false", "tensorboard=false", "hydra.run.dir=out", PYTHONPATH=".",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert read_json(tmp_path / "out" / "summary.json")["results"]["dense"]["macs"] == macs
    assert read_json(tmp_path / "out" / "plan.json")["uncounted"] == uncounted
    told = [line for line in (tmp_path / "out" / "compress.log").read_text().splitlines() if "no formula" in line]
    stages = ("sparsify", "prune") if uncounted else ()  # the first that reads MACs, and the one that plans by them
    assert len(told) == len(stages)
    for line, stage in zip(told, stages, strict=True):
        assert f"{stage}: of the dense network, its MACs leave out what has no formula (layer runs cdist)" in line
