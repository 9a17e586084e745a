"""Every PEFT method by name. Torch-free: the code behind a method is imported when it is injected."""

from medpeft_cli.methods.catalogue import OWN
from medpeft_cli.methods.method import Method
from medpeft_cli.methods.tuners import TUNERS

METHODS: dict[str, Method] = {method.name: method for method in (*OWN, *(tuner.method for tuner in TUNERS.values()))}
