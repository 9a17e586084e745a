"""Every figure that the records of a report can bear. Imports matplotlib: import it where figures are asked for."""

from medpeft_cli.report.figures.plan import FORMS, Drawing, drawings, not_drawn, write_figures

__all__ = ["FORMS", "Drawing", "drawings", "not_drawn", "write_figures"]
