"""A seed for every purpose: the same words and numbers give the same one, all others another."""

from compress.io.seeds import derive_seed


def test_seeds_follow_every_part_its_place_and_its_kind() -> None:
    purposes = [
        (0, "pretrain", 1, "images"), (1, "pretrain", 1, "images"), (0, "finetune", 1, "images"),
        (0, "pretrain", 2, "images"), (0, "pretrain", 1, "layers"), (1, "pretrain", 0, "images"), (0, "pretrain", 1),
        (0, "pretrain", 1, "images", 1), (0, "pretrain", 11, "images"), (0, "pretrain1", 1, "images"),
        (1, 11), (11, 1), ("1", 11), (), (0,),
    ]  # fmt: skip
    seeds = [derive_seed(*purpose) for purpose in purposes]
    assert len(set(seeds)) == len(purposes)
    assert seeds == [derive_seed(*purpose) for purpose in purposes]
    assert all(0 <= seed < 2**48 for seed in seeds)


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    """A resumed run depends on it: Python's own hash would not do."""
    assert derive_seed(0, "weights") == 157100694411561
