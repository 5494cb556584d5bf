"""Networks of timm, transformers and ultralytics, by the law of benchmarks/zoos.py: masked equals cut in float64 for
plans of random widths, looking changes nothing, and something can go. Extra `zoo-tests`; timm is in `dev`."""

import pytest
from zoos import NAMES, ZOOS, measure

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
