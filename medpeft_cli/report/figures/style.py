"""One look for all figures: a method has the same colour, marker and dash in each, so that grey and colour-blind eyes follow it."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from medpeft_cli.report import text
from medpeft_cli.report.table import Table

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe & Ito 2008, without black and yellow
BLACK, GREY, PALE = "#000000", "#8a8f94", "#e3e5e8"
MARKERS = "^DvPX<>ph*"
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
WIDTH = 6.9  # inches: the text width of a page
NAME = 26  # characters of a name in a figure
DEMO = "DEMO: synthetic data, bundled tiny networks"
DEMO_COLOUR = "#a8501b"

SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.3,
    "text.parse_math": False,  # names come from data: "$" is a dollar sign
    "text.usetex": False,
    "pdf.fonttype": 42,  # letters stay letters
    "svg.hashsalt": "medpeft",
}


class Style(NamedTuple):
    """How a column of a table is drawn in every figure."""

    name: str
    colour: str
    marker: str
    dash: Dash

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of a line with markers."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}


def styles(table: Table) -> list[Style]:
    """Return a style for each column; full fine-tuning is black, linear probing grey, and no two are equal up to 30."""
    baselines = {"full": (BLACK, "o"), "linear": (GREY, "s")}
    found, others = [], 0
    for j, column in enumerate(table.columns):
        runs = [run for row in table.cells for run in (*row[j].runs, *row[j].others)]
        colour, marker = baselines.get(runs[0].method if runs and not column.get("variant") else "", ("", ""))
        dash: Dash = "-"
        if not colour:
            colour, marker = COLOURS[others % len(COLOURS)], MARKERS[others % len(MARKERS)]
            dash = DASHES[others % len(DASHES)]
            others += 1
        found.append(Style(label(text.column_title(column)), colour, marker, dash))
    return found


def label(name: str, longest: int = NAME) -> str:
    """Return a name as figures show it: short, and never taken for a hidden label of matplotlib."""
    shown = text.clean(name, longest)
    return f" {shown}" if shown.startswith("_") else shown


def metric_label(table: Table) -> str:
    """Return the name of a table's metric with its better direction."""
    title = table.info.title
    return f"{title[0].upper()}{title[1:]} {'↑' if table.info.higher_is_better else '↓'}"


def new_figure(height: float, *, demo: bool) -> Figure:
    """Return an empty figure of the text's width, which says so if it shows demo results.

    Args:
        height: inches.
        demo: results of synthetic data.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    if demo:
        figure.suptitle(DEMO, fontsize=7, color=DEMO_COLOUR, x=0.995, ha="right")
    return figure


class Tiles:
    """Many small panels in one pair of axes, which draws many times faster than axes for each; units are inches, y goes down.

    Attributes:
        figure: it all.
        axes: of the whole figure, invisible.
        side: of a panel.
        places: left and upper edge of each panel.
        lowest: the panels of the last line.
    """

    def __init__(self, number: int, *, left: float, bottom: float, demo: bool, across: int = 5):
        gap, title = 0.1, 0.24
        self.side = (WIDTH - left) / across - gap
        lines = -(-number // across)
        top = 0.2 if demo else 0.02
        height = top + lines * (self.side + title + 0.04) + bottom
        width = max(left + min(number, across) * (self.side + gap), WIDTH / 2)
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        pitch = self.side + title + 0.04
        self.places = [
            (left + k % across * (self.side + gap), top + title + k // across * pitch) for k in range(number)
        ]
        self.lowest = range((lines - 1) * across, number)
        if demo:
            self.text(width - 0.05, 0.03, DEMO, ha="right", va="top", color=DEMO_COLOUR)

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Write at a place."""
        usual: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center"}
        self.axes.text(x, y, words, **(usual | how))

    def titled(self, names: list[str]) -> None:
        """Write the panels' titles."""
        for (x, y), name in zip(self.places, names, strict=True):
            self.text(x + self.side / 2, y - 0.04, name, va="bottom")

    def labelled(self, across: str, downwards: str) -> None:
        """Write what the panels' axes are."""
        height, right = self.figure.get_figheight(), max(x for x, _ in self.places) + self.side
        self.text((self.places[0][0] + right) / 2, height - 0.03, across, va="bottom")
        self.text(0.04, height / 2, downwards, rotation=90, ha="left")


def legend(figure: Figure, shown: list[Style], columns: int = 5) -> None:
    """Put the styles below a figure, in as many columns as fit its width."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style.line) for style in shown]
    names = [style.name for style in shown]
    for number in range(min(columns, len(shown)), 0, -1):
        box = figure.legend(handles, names, loc="outside lower center", ncols=number)
        if number == 1 or box.get_window_extent().width <= figure.bbox.width:
            break
        box.remove()


@contextmanager
def look() -> Iterator[None]:
    """Draw with the settings above, whatever the user's are; a letter that the font lacks is a box, not a warning."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support", category=UserWarning)
        yield


def encode(figure: Figure, form: str) -> bytes:
    """Return a figure as pdf, png or svg; equal figures give equal bytes."""
    canvas = {"pdf": FigureCanvasPdf, "png": FigureCanvasAgg, "svg": FigureCanvasSVG}[form](figure)
    nameless: dict[str, dict[str, None]] = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    buffer = io.BytesIO()
    canvas.print_figure(buffer, format=form, dpi=200, metadata=nameless[form])
    return buffer.getvalue()
