"""Tests that need other programs are skipped where these are not installed; `.ci/run` says which must be there."""

import os
import shutil

import pytest


@pytest.mark.parametrize("name", os.environ.get("MEDPEFT_TEST_PROGRAMS", "").split())
def test_a_program_that_ci_promises_is_there(name):
    assert shutil.which(name), f"{name} is not installed: the tests that need it were skipped"
