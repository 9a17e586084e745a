"""Self-contained pages: a template, the common style, and nothing that is fetched. All that comes from data is escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medpeft_cli.words import counted

PACKAGE = Path(__file__).parent


def render_page(template: str, **values: Any) -> str:
    """Return a page as HTML; the template includes `page.css`, and the filters `n` and `counted` write
    1,234 and 1 picture, 2 pictures.

    Args:
        template: file in the package, as in `data/page.html`.
        values: for the template.
    """
    environment = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["n"] = lambda number: f"{number:,}"
    environment.filters["counted"] = counted
    return environment.get_template(template).render(values)
