"""Pictures with captions and tiny pipelines, made once."""

import pytest

from tests.captioned import write_captioned, write_recipe


@pytest.fixture(scope="session")
def captioned(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"))


@pytest.fixture(scope="session")
def assembly_of(captioned):
    """Return a function that assembles a recipe, with overrides as --set takes them."""
    from medpeft_cli.engine.text_to_image import assemble
    from medpeft_cli.recipe.load import load_recipe

    def assembled(*overrides, pipeline="sd1", method="bias"):
        recipe = load_recipe(write_recipe(captioned, f"{pipeline}-{method}", method, pipeline), overrides).recipe
        return assemble(recipe)

    return assembled
