"""What every model of a recipe, a grid or a card is built on."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """No unknown keys, no change after loading, and every default is validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
