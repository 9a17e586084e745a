"""Self-contained pages: a template, the common style, and nothing that is fetched. All that comes from data is escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PACKAGE = Path(__file__).parent


def render_page(template: str, **values: Any) -> str:
    """Return a page as HTML; the template includes `page.css`, and the filter `n` writes 1234 as 1,234.

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
    return environment.get_template(template).render(values)
