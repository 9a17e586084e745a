"""From records to tables. Needs records only: no torch, no numpy, no weights, no data."""

from medpeft_cli.report.build import Question, Report, build_report
from medpeft_cli.report.render import files, render
from medpeft_cli.report.terminal import print_report

__all__ = ["Question", "Report", "build_report", "files", "print_report", "render"]
