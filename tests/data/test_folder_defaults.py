"""Defaults of a folder of images follow from how many and how large they are, and the run says so."""

from pathlib import Path

import pytest
from conftest import compose_config
from PIL import Image

from compress.config.image_folder import by_images, image_side, told, training_images
from compress.run.folder import config_hash

TABLE = {"10": "few", "20": "some", "other": "many"}


def folder(root: Path, images: int, size: tuple[int, int]) -> str:
    for number in range(images):
        path = root / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return str(root)


@pytest.mark.parametrize(("images", "value"), [(4, "few"), (10, "few"), (11, "some"), (21, "many")])
def test_the_least_bound_that_holds_decides(images: int, value: str, tmp_path: Path) -> None:
    root = folder(tmp_path, images, (8, 8))
    assert by_images(root, TABLE) == value
    assert training_images(root, 5) == min(images, 5), "counted no further than is asked"


def test_without_a_folder_the_published_values_stand(tmp_path: Path) -> None:
    assert by_images(None, TABLE) == by_images(str(tmp_path), TABLE) == "many"
    assert image_side(None, 224) == image_side(str(tmp_path), 224) == 224
    imagenet = compose_config("dataset=imagefolder", f"dataset.root={tmp_path}")
    assert (imagenet["pretrain"]["batch_size"], imagenet["pretrain"]["lr"]) == (256, 0.1)
    assert (imagenet["dataset"]["held_out"], imagenet["dataset"]["image_size"]) == (0.02, 224)
    assert told(imagenet) == []


def test_a_small_folder_has_small_images_batches_and_a_large_held_out_part(tmp_path: Path) -> None:
    root = folder(tmp_path, 30, (72, 100))
    config = compose_config("dataset=imagefolder", f"dataset.root={root}")
    dataset, recipe = config["dataset"], config["pretrain"]
    assert (dataset["image_size"], dataset["resize"], dataset["held_out"]) == (64, 64, 0.2)
    assert (recipe["batch_size"], recipe["lr"], config["finetune"]["batch_size"]) == (16, 0.01, 16)
    (line,) = told(config)
    assert line.startswith("defaults for 30 training images of about 72 px: held_out 0.2, batch_size 16")
    assert line.endswith("image_size 64")
    assert config_hash(config) == config_hash(compose_config("dataset=imagefolder", f"dataset.root={root}"))
    own = compose_config(
        "dataset=imagefolder", f"dataset.root={root}", "pretrain.batch_size=8", "dataset.held_out=0.3"
    )
    assert "batch_size" not in told(own)[0]
    assert own["dataset"]["held_out"] == 0.3
