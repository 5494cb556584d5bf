"""Networks of timm, transformers and ultralytics, by the law of benchmarks/zoos.py: masked equals cut in float64 for
plans of random widths, looking changes nothing, and something can go. Extra `zoo-tests`; timm is in `dev`."""

from typing import Any

import pytest
import torch
import torchvision
from zoos import NAMES, ZOOS, Detector, measure

import compress

SMALLEST = ["test_convnext2", "test_efficientnet_gn", "test_mambaout", "test_nfnet", "test_vit3"]


def hold_to_the_law(zoo: str, name: str, most: float = 0.75) -> None:
    found = measure(zoo, name, peer=False)
    assert found["changed"] == []
    assert found["groups"] > 0, found["reasons"]
    assert found["law"] < 1e-9
    assert found["share"] < most, found["reasons"]


@pytest.mark.parametrize("name", SMALLEST)
def test_timms_smallest(name: str) -> None:
    pytest.importorskip("timm")
    hold_to_the_law("timm", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.read_text().split())
def test_one_or_two_of_every_family_of_timm(name: str) -> None:
    pytest.importorskip("timm")
    hold_to_the_law("timm", name, most=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zoo", "name"),
    [(zoo, name) for zoo in ("transformers", "ultralytics", "torchvision") for name in ZOOS[zoo][1]()],
)
def test_what_people_train_elsewhere(zoo: str, name: str) -> None:
    pytest.importorskip(zoo)
    hold_to_the_law(zoo, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "found"),
    [("fasterrcnn_mobilenet_v3_large_320_fpn", {"box_score_thresh": 0}), ("ssdlite320_mobilenet_v3_large", {})],
)
def test_a_detector_detects_with_the_parts_that_were_cut(name: str, found: dict[str, Any]) -> None:
    """What docs/surgery.md says of detectors: masked, its boxes are those of the one with the cut parts."""
    whole: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None, **found).double().eval()
    parts, photo = Detector(whole), torch.rand(3, 320, 320, dtype=torch.float64)
    groups = compress.channel_groups(parts, (3, 320, 320))
    plan = compress.Plan({group.name: range(-(-group.width // 2)) for group in groups})
    small: Any = compress.cut(parts, plan)
    with torch.no_grad(), compress.masked(parts, plan):
        expected = whole([photo])[0]["boxes"]
    whole.backbone = small.backbone
    (whole.rpn if parts.in_two_stages else whole).head = small.head
    with torch.no_grad():
        boxes = whole([photo])[0]["boxes"]
    assert len(boxes)
    torch.testing.assert_close(boxes, expected)
