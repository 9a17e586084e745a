"""Every PEFT method by name. Torch-free: the code behind a method is imported when it is injected."""

from medpeft_cli.methods.catalogue import OWN
from medpeft_cli.methods.method import Method
from medpeft_cli.methods.tuners import TUNERS

METHODS: dict[str, Method] = {method.name: method for method in (*OWN, *(tuner.method for tuner in TUNERS.values()))}

_LANGUAGE = "it is made for language models and finds nothing in an image backbone"
REFUSED: dict[str, str] = {  # methods of HF peft that a user may ask for, and why they are not in METHODS
    "lily": "its router is averaged over the batch, so an image's prediction depends on the other images",
    "adamss": "it needs a clustering of the weights that fails on these layers",
    "shadow": "it needs settings that exist for language models only",
} | dict.fromkeys(("prompt_tuning", "prefix_tuning", "p_tuning", "cpt", "adaption_prompt", "xlora", "poly"), _LANGUAGE)
