"""Give each picture its split: the official one, or one of our own that keeps groups and twins together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medpeft_cli.data.card import SPLITS, Card, names_of
from medpeft_cli.data.checks import Pictures, Twins
from medpeft_cli.data.leaks import Leak, OnLeak
from medpeft_cli.data.splits import split_groups, strata_of
from medpeft_cli.errors import DataError

ANEW = "split.rule: stratified in the card divides all pictures anew"


def divide(
    pictures: Pictures, twins: Twins, leaks: Sequence[Leak], card: Card, seed: int, on_leak: OnLeak | None
) -> tuple[Pictures, np.ndarray]:
    """Give each picture its split: the official one, or a stratified group-safe one.

    Groups that hold twins are joined, and a split of our own is drawn with the joined groups; "allow" joins equal pictures
    only. An official split may leak: then "move" moves the whole joined group to its most protected split, "drop" leaves out
    its pictures in the less protected ones, "allow" leaves it as it is. A split that the source lacks is taken from train,
    never from test.

    Args:
        pictures: with the official split, where it is used.
        twins: equal pictures and near-duplicates among them.
        leaks: of the official split, see `find_leaks`; something has been decided about them.
        card: split rule.
        seed: of the drawing.
        on_leak: what to do with leaks.

    Returns:
        the pictures with their splits and groups, those that are left out still among them; which stay, bool (N,).

    Raises:
        DataError: if there are no training pictures, or a class would be missing from a split.
    """
    left = {name for sample in pictures.samples for name in names_of(sample.label, card.task)}
    for name in card.classes if card.task != "text" else ():
        if name not in left:
            raise DataError(
                f"class {name!r}: no picture is left", "all of them are unreadable, or also under another class"
            )
    joined = pictures.joined(twins.pairs[twins.equal] if on_leak == "allow" else twins.pairs)
    kept = np.ones(len(pictures.samples), dtype=bool)
    if not card.official:
        near_joined = on_leak != "allow" and not twins.equal.all()
        return replace(joined, splits=_drawn(joined, card, seed, SPLITS, near_joined)), kept
    splits = pictures.splits.copy()
    for leak in leaks if on_leak in ("move", "drop") else []:
        if on_leak == "move":
            splits[leak.picture] = splits[leak.other]
        else:
            kept[leak.picture] = False
    train = kept & (splits == "train")
    if not train.any():
        raise DataError("no picture in the official train split", ANEW)
    if missing := [split for split in SPLITS[1:] if split not in splits[kept]]:
        splits[train] = _drawn(joined.take(train), card, seed, ("train", *missing))
    if card.task == "classify":
        present = Counter(
            (sample.label, split)
            for sample, split in zip(joined.take(kept).samples, splits[kept].tolist(), strict=True)
        )
        for name in card.classes:
            if absent := [split for split in SPLITS if not present[name, split]]:
                raise DataError(
                    f"class {name!r}: no picture in the official {absent[0]} split, wanted one at least",
                    ANEW,
                )
    return replace(joined, splits=splits), kept


def strata(pictures: Pictures, card: Card, splits: int = len(SPLITS)) -> list[str]:
    """Return the class by which each picture is split."""
    if card.task == "classify":
        return [sample.label for sample in pictures.samples]
    return strata_of([names_of(sample.label, card.task) for sample in pictures.samples], pictures.groups, splits)


def _drawn(pictures: Pictures, card: Card, seed: int, names: Sequence[str], near_joined: bool = False) -> np.ndarray:
    shares = [card.split.fractions[SPLITS.index(split)] for split in names]
    labels = strata(pictures, card, len(names))
    try:
        return split_groups(labels, pictures.groups, shares, seed, names, card.split.group)
    except DataError as error:
        if not near_joined:
            raise
        hint = f"{error.hint}; near-duplicates share a group, --on-leak allow lets them straddle"
        raise DataError(error.message, hint) from None
