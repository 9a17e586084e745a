import numpy as np
import pytest

from medpeft_cli.data.splits import join_groups, split_groups, subset_per_class
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


def test_groups_are_joined_along_chains():
    assert join_groups([("c", "b"), ("d", "e"), ("b", "a")]) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d"}


def test_subsets_are_nested_stratified_and_never_empty():
    ids = [f"i{i}" for i in range(230)]
    labels = ["a"] * 200 + ["b"] * 28 + ["c"] * 2
    label_of = dict(zip(ids, labels, strict=True))
    chosen = [subset_per_class(ids, labels, fraction, None, 5) for fraction in (0.01, 0.1, 0.3, 0.8, 1.0)]
    assert all(small < large for small, large in zip(chosen, chosen[1:], strict=False))
    assert [sum(label_of[i] == "a" for i in subset) for subset in chosen] == [2, 20, 60, 160, 200]
    assert all({label_of[i] for i in subset} == {"a", "b", "c"} for subset in chosen)
    assert subset_per_class(ids, labels, 0.1, None, 6) != chosen[1]


def test_k_shot_takes_k_of_each_class_and_is_nested():
    ids = [f"i{i}" for i in range(40)]
    labels = ["a", "b"] * 20
    two, five = (subset_per_class(ids, labels, 1.0, k, 0) for k in (2, 5))
    assert len(two) == 4 and len(five) == 10 and two < five
    with pytest.raises(DataError, match=r"data.k_shot: got 21, class 'a' has 20"):
        subset_per_class(ids, labels, 1.0, 21, 0)
