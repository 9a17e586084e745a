"""The list of methods: known without torch, described in full, refused when wrong."""

import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from medpeft_cli.methods import METHODS
from medpeft_cli.methods.tuners import TUNERS


def test_the_list_needs_no_torch():
    code = "import sys, medpeft_cli.methods; print(sorted({'torch', 'timm', 'peft', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_titles_are_the_papers():
    titles = {(name, family): title for name, method in METHODS.items() for family, title in method.titles.items()}
    assert titles["bias", "cnn"] == "Bias Tuning" and titles["bias", "vit"] == "BitFit"
    assert titles["norm", "cnn"] == "BN Tuning" and titles["norm", "vit"] == "LayerNorm Tuning"
    assert titles["full", "vit"] == "Full FT" and titles["attention", "vit"] == "Attention Tuning"


def test_in_paper_names_supported_families_only():
    assert all(set(method.in_paper) <= set(method.titles) for method in METHODS.values())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_hyper_parameter_is_described_and_has_a_default(method):
    config = method.config()
    for name, field in method.config.model_fields.items():
        assert field.description, name
        assert getattr(config, name) == field.get_default(call_default_factory=True)
    assert method.config.__doc__
    assert re.search(r"arXiv|doi|ICLR|NeurIPS|baseline", method.reference)


def test_tuner_options_are_arguments_of_peft():
    import dataclasses

    from medpeft_cli import compat  # noqa: F401  must come before peft

    # isort: split
    import peft

    for name, tuner in TUNERS.items():
        known = {field.name for field in dataclasses.fields(getattr(peft, tuner.config_class))}
        assert {*tuner.options.values(), *tuner.fixed} <= known, name
        assert {*tuner.options, "targets"} == set(tuner.method.config.model_fields)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("lora", {"rank": 0}, "greater than or equal to 1"),
        ("lora", {"rnak": 8}, "Extra inputs"),
        ("lora", {"targets": "("}, "not a regular expression"),
        ("lora", {"targets": []}, "empty"),
        ("hra", {"rank": 7}, "multiple of 2"),
        ("adaptformer", {"branch_input": "mlp"}, "'norm' or 'residual'"),
        ("tsa", {"convs": "all"}, "'block' or '3x3'"),
        ("norm", {"statistics": "freeze"}, "'adapt' or 'hold'"),
        ("linear", {"rank": 8}, "Extra inputs"),
    ],
)
def test_wrong_hyper_parameters_are_refused(name, parameters, message):
    with pytest.raises(ValidationError, match=message):
        METHODS[name].config(**parameters)
