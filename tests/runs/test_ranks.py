"""Which process this is, from what torchrun and srun say."""

import pytest

from medpeft_cli.errors import RunError
from medpeft_cli.runs.ranks import Place, launched

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
TORCHRUN |= {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
STEP = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1"}
STEP |= {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_STEP_NODELIST": "node[7-8]"}


def test_torchrun():
    assert launched(TORCHRUN) == Place(5, 8, 1, 4, "node1", 29500)


def test_a_step_of_slurm():
    place = launched(STEP)
    assert (place.rank, place.size, place.local_rank, place.sharing, place.address) == (3, 4, 3, 1, "127.0.0.1")
    assert launched(STEP | {"SLURM_PROCID": "0"}).port == place.port != launched(STEP | {"SLURM_STEP_ID": "1"}).port
    given = launched(STEP | {"MASTER_ADDR": "node9", "MASTER_PORT": "4000"})
    assert (given.address, given.port) == ("node9", 4000)


def test_over_several_machines_the_first_of_the_step_is_met(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames node[7-8]" ] && printf "node7\\nnode8\\n"\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert launched(STEP | {"SLURM_STEP_NUM_NODES": "2"}).address == "node7"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_alone(environ):
    assert launched(environ) is None


@pytest.mark.parametrize("change", [{"RANK": "first"}, {"MASTER_PORT": ""}, {"WORLD_SIZE": "-2"}])
def test_what_is_no_number_is_refused(change):
    with pytest.raises(RunError, match=f"{next(iter(change))}: got"):
        launched(TORCHRUN | change)
