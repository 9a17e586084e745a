"""Which runs go into which table: the layouts of the paper's Tables 2 to 5, and one for training sets of several sizes.

Table 6, the parameters, follows from Tables 3 and 5: `sheet.py` draws it where one of them has several backbones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from medpeft_cli.report.records import Run
from medpeft_cli.report.table import TableSpec

Select = Callable[[Sequence[Run]], list[Run]]

PAPERS = ("cnn", "vit", "unet")  # families that have a layout of their own
SELF_SUPERVISED = ("mae", "clip", "dino", "dinov2", "dinov3", "moco", "beit", "data2vec", "siglip")


def _whole(family: str, self_supervised: bool = False) -> Select:
    """Return what selects a family's runs on whole training splits."""

    def select(runs: Sequence[Run]) -> list[Run]:
        mine = (run for run in runs if run.family == family and run.whole)
        return [run for run in mine if family == "cnn" or _self_supervised(run) == self_supervised]

    return select


def _low_data(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of what was tried with less than all pictures, those on all of them too; and those of odd families."""

    def place(run: Run) -> tuple[str | None, str | None, str]:
        return run.card.title if run.card else None, run.backbone_title, run.method

    tried = {place(run) for run in runs if not run.whole}
    return [run for run in runs if run.family not in PAPERS or (run.family != "unet" and place(run) in tried)]


def _text_to_image(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.family == "unet"]


def _self_supervised(run: Run) -> bool:
    """Return whether a backbone's name says that it was trained without class labels."""
    words = str(run.setting("backbone", "name")).replace(".", "_").split("_")
    return any(word in SELF_SUPERVISED for word in words) and not any(word.startswith("in1k") for word in words)


LAYOUTS: tuple[tuple[TableSpec, Select], ...] = (
    (TableSpec("table2", across="dataset"), _whole("cnn")),
    (TableSpec("table3", across="dataset", together=True), _whole("vit")),
    (TableSpec("table4", across="fraction"), _text_to_image),
    (TableSpec("table5", across="dataset"), _whole("vit", self_supervised=True)),
    (TableSpec("runs"), _low_data),
)


def arranged(runs: Sequence[Run], metric: str, ties: Mapping[str, str]) -> list[tuple[TableSpec, list[Run]]]:
    """Return the layouts that some runs fit, in the paper's order, each with its runs.

    Args:
        runs: those that one metric is shown of.
        metric: its name.
        ties: name of a layout → its rule for tied ranks, where it is not `average`.
    """
    found = [
        (replace(spec, metric=metric, ties=ties.get(spec.name, "average")), select(runs)) for spec, select in LAYOUTS
    ]
    return [(spec, mine) for spec, mine in found if mine]
