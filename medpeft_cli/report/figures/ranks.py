"""Average ranks with the critical difference, after Demšar 2006."""

from matplotlib.figure import Figure

from medpeft_cli.report.figures.panels import main_blocks, panels, place, readable
from medpeft_cli.report.figures.style import BLACK, PALE, new_figure, styles
from medpeft_cli.report.ranks import critical_difference
from medpeft_cli.report.table import RANK_DIGITS, Block, Table


def ranked_blocks(table: Table) -> list[Block]:
    """Return the blocks that have average ranks."""
    return [block for block in main_blocks(table) if block.ranked_rows]


def complete_rows(table: Table, block: Block) -> list[int]:
    """Return the rows of a block in which every ranked method has a value."""
    ranked = [j for j, rank in enumerate(block.ranks) if rank is not None]
    return [i for i in block.rows if ranked and all(table.cells[i][j].values for j in ranked)]


def ranks(table: Table) -> Figure:
    """Draw average ranks, best first, with the ranks on each dataset and the critical difference as a bar."""
    blocks = ranked_blocks(table)
    most = max(len(readable(_ordered(block))) for block in blocks)
    figure = new_figure((0.19 * most + 1.0) * -(-len(blocks) // 2) + 0.2, demo=table.demo)
    looks = styles(table)
    for axes, block in zip(panels(figure, len(blocks)), blocks, strict=False):
        rows = complete_rows(table, block)
        ordered = _ordered(block)
        shown = readable(ordered)
        for y, (rank, j) in enumerate(shown):
            each = [r for i in rows if (r := table.cells[i][j].rank) is not None]
            axes.plot([1, rank], [y, y], color=PALE, linewidth=1, zorder=1)
            axes.plot(each, [y] * len(each), "|", color="#636b74", markersize=6, markeredgewidth=0.9)
            axes.plot(rank, y, color=looks[j].colour, marker=looks[j].marker, markersize=6)
        axes.set_yticks(range(len(shown)), [f"{looks[j].name}  {rank:.{RANK_DIGITS}f}" for rank, j in shown])
        difference, best = critical_difference(len(ordered), len(rows)), ordered[0][0]
        axes.plot([best, best + difference], [-1, -1], color=BLACK, linewidth=2.2, solid_capstyle="butt")
        axes.annotate(
            f"critical difference {difference:.2f}", (best, -1), xytext=(0, 3), textcoords="offset points", fontsize=6.5
        )
        axes.set_xlim(0.7, max(len(ordered), best + difference) + 0.3)
        axes.set_ylim(len(shown) - 0.5, -1.9)
        axes.set_title(place(table, block.rows[0], table.across))
        axes.set_xlabel(f"rank over {len(rows)} datasets, 1 = best")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


def _ordered(block: Block) -> list[tuple[float, int]]:
    """Return (average rank, column) of each ranked method, best first."""
    return sorted((rank, j) for j, rank in enumerate(block.ranks) if rank is not None)
