import numpy as np
import pytest

from medpeft_cli.data.splits import join_groups, nested_ranks, split_groups, strata_of
from medpeft_cli.errors import DataError

FRACTIONS = (0.7, 0.15, 0.15)


def random_dataset(seed: int, grouped: bool):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 400))
    labels = [f"c{k}" for k in rng.choice(4, count, p=[0.6, 0.25, 0.1, 0.05])]
    labels[:12] = [f"c{k}" for k in range(4)] * 3
    groups = [f"g{g}" for g in (rng.integers(0, count // 2, count) if grouped else range(count))]
    return labels, groups


@pytest.mark.parametrize("seed", range(20))
def test_groups_do_not_straddle_and_every_class_is_everywhere(seed):
    labels, groups = random_dataset(seed, grouped=True)
    splits = split_groups(labels, groups, FRACTIONS, seed)
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
    assert len(set(zip(labels, splits, strict=True))) == 3 * len(set(labels))


@pytest.mark.parametrize("seed", range(20))
def test_single_images_are_stratified_within_one_image(seed):
    labels, groups = random_dataset(seed, grouped=False)
    splits = split_groups(labels, groups, FRACTIONS, seed)
    for label in set(labels):
        mine = splits[[name == label for name in labels]]
        for split, fraction in zip(("train", "val", "test"), FRACTIONS, strict=True):
            wanted = max(1, fraction * len(mine))
            assert abs((mine == split).sum() - wanted) <= 1, (label, split)


def test_grouped_classes_stay_near_their_fractions():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 6, 600)
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    labels = [("a", "b", "c")[g % 3] for g, size in enumerate(sizes) for _ in range(size)]
    splits = split_groups(labels, groups, FRACTIONS, 0)
    for label in "abc":
        mine = splits[[name == label for name in labels]]
        assert abs((mine == "train").mean() - 0.7) < 0.01


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    labels, groups = random_dataset(3, grouped=True)
    first = dict(zip(groups, split_groups(labels, groups, FRACTIONS, 1), strict=True))
    again = dict(zip(groups[::-1], split_groups(labels[::-1], groups[::-1], FRACTIONS, 1), strict=True))
    other = dict(zip(groups, split_groups(labels, groups, FRACTIONS, 2), strict=True))
    assert first == again
    assert first != other


def test_the_split_of_this_seed_is_pinned():
    """Published results name a seed: its split must be the same in every version."""
    splits = split_groups(["a", "b"] * 5, [f"g{i}" for i in range(10)], FRACTIONS, 0)
    assert "".join(str(split)[1] for split in splits) == "rerrarrrea"  # t(r)ain, t(e)st, v(a)l


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 5, 1), (10, 1, 1), (2, 2, 2, 2), (1, 50, 1, 1)])
def test_few_groups_still_reach_every_split(sizes):
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)] + [f"b{i}" for i in range(20)]
    labels = ["rare"] * sum(sizes) + ["b"] * 20
    splits = split_groups(labels, groups, FRACTIONS, 0)
    assert set(splits[: sum(sizes)]) == {"train", "val", "test"}


def test_a_class_with_too_few_groups_is_named():
    with pytest.raises(DataError, match=r"class 'rare': 2 patients with 7 pictures, wanted 3 at least") as caught:
        split_groups(["rare"] * 7 + ["b"] * 9, ["x"] * 4 + ["y"] * 3 + list("123456789"), FRACTIONS, 0, unit="patient")
    assert "take the class out" in caught.value.hint


def test_pictures_without_a_class_are_called_so():
    with pytest.raises(DataError, match="^pictures without a class: 1 patient with 2 pictures, wanted 2") as caught:
        split_groups(["", ""], ["p", "p"], (0.8, 0.2), 0, ("train", "test"), "patient")
    assert caught.value.hint == "add pictures"


def test_groups_are_joined_along_chains():
    assert join_groups([("c", "b"), ("d", "e"), ("b", "a")]) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d"}


def test_ranks_count_each_class_and_depend_on_the_seed_and_not_on_the_order():
    ids = [f"i{i}" for i in range(30)]
    strata = ["a"] * 20 + ["b"] * 10
    ranks = nested_ranks(ids, strata, 0)
    assert sorted(ranks[:20]) == list(range(1, 21)) and sorted(ranks[20:]) == list(range(1, 11))
    assert nested_ranks(ids[::-1], strata[::-1], 0) == ranks[::-1]
    assert nested_ranks(ids, strata, 1) != ranks


def test_the_ranks_of_this_seed_are_pinned():
    """Published results name a fraction: its pictures must be the same in every version."""
    assert nested_ranks([f"i{i}" for i in range(8)], ["a", "b"] * 4, 0) == [3, 4, 1, 2, 4, 1, 2, 3]


def test_several_classes_count_as_the_rarest_that_can_be_divided():
    labels = [["common"]] * 6 + [["common", "rare"]] * 3 + [["common", "single"]] + [[]] * 3
    groups = [f"g{i}" for i in range(len(labels))]
    assert strata_of(labels, groups) == ["common"] * 6 + ["rare"] * 3 + ["common"] + [""] * 3


def test_a_stratum_that_is_too_small_is_joined_to_the_largest():
    assert strata_of([["a"]] * 5 + [[]] * 2, [f"g{i}" for i in range(7)]) == ["a"] * 7
