"""predictions.csv: exact round trip, atomic, and every kind of damage named by line and column."""

import numpy as np
import pytest

from medpeft_cli.errors import DataError
from medpeft_cli.metrics.predictions import read_predictions, write_predictions

CLASSES = ("mel", "nv, benign", 'b"kl')


def test_round_trip_is_exact_for_float32(tmp_path):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(3, 0.2), size=200).astype(np.float32)
    labels = [CLASSES[k] for k in rng.integers(0, 3, size=200)]
    ids = [f"ISIC_{i:07d}" for i in range(198)] + ["a,b", "צילום\n2"]
    groups = [f"patient {i // 2}" for i in range(200)]
    write_predictions(tmp_path / "predictions.csv", ids, groups, labels, probabilities, CLASSES)
    back = read_predictions(tmp_path / "predictions.csv", CLASSES)
    assert back.ids == ids and back.groups == groups and [CLASSES[k] for k in back.labels] == labels
    np.testing.assert_array_equal(back.probabilities.astype(np.float32), probabilities)
    again = tmp_path / "again.csv"
    write_predictions(again, back.ids, back.groups, labels, back.probabilities, CLASSES)
    assert again.read_bytes() == (tmp_path / "predictions.csv").read_bytes()


def test_names_that_are_not_utf8_come_back(tmp_path):
    """Files of an old disk: Python reads their names with surrogates."""
    path = tmp_path / "predictions.csv"
    write_predictions(path, ["caf\udce9.png"], ["h\udcf4pital"], ["x"], np.array([[0.5, 0.5]]), ("x", "y"))
    assert b"caf\xe9.png,h\xf4pital,x" in path.read_bytes()
    back = read_predictions(path, ("x", "y"))
    assert (back.ids, back.groups) == (["caf\udce9.png"], ["h\udcf4pital"])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, ["a"], ["g"], ["x"], np.array([[0.5, 0.5]]), ("x", "y"))
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_predictions(path, ["a", "b"], ["g"], ["x"], np.array([[0.5, 0.5]]), ("x", "y"))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", ":1: column 'id'", "got None in the header, wanted 'id'"),
        ("id,group,label,p_x\na,g,x,1\n", ":1: column 'p_y'", "wanted 'p_y'"),
        ("id,group,label,p_y,p_x\na,g,x,1,0\n", ":1: column 'p_x'", "got 'p_y' in the header, wanted 'p_x'"),
        ("id,group,label,p_x,p_y,p_z\n", ":1: column 'p_z'", "wanted None"),
        ("id,group,label,p_x,p_y\na,g,x,0.5,0.5\nb,g,x,0.5\n", ":3: column 'p_y'", "got 4 cells, wanted 5"),
        ("id,group,label,p_x,p_y\na,g,x,0.5,0.5,1\n", ":2: column 'p_y'", "got 6 cells, wanted 5"),
        ("id,group,label,p_x,p_y\na,g,z,0.5,0.5\n", ":2: column 'label'", "'z' is none of the classes x, y"),
        ("id,group,label,p_x,p_y\na,g,x,0.5,0.5\na,g,y,0.5,0.5\n", ":3: column 'id'", "'a' is there twice"),
        ("id,group,label,p_x,p_y\na,g,x,0.5,half\n", ":2: column 'p_y'", "got 'half', wanted a number"),
        ("id,group,label,p_x,p_y\na,g,x,nan,0.5\n", ":2: column 'p_x'", "got 'nan', wanted a probability in 0–1"),
        ("id,group,label,p_x,p_y\na,g,x,0.5,-0.5\n", ":2: column 'p_y'", "wanted a probability in 0–1"),
        ("id,group,label,p_x,p_y\na,g,x,0.5,0.4\n", ":2: column 'p_x'", "not a probability distribution: sum 0.9"),
        ('id,group,label,p_x,p_y\n"a,g,x,0.5,0.5\n', ":2: column 'id'", "end of data"),
    ],
)
def test_damage_is_named_by_line_and_column(tmp_path, text, place, said):
    path = tmp_path / "predictions.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_predictions(path, ("x", "y"))
    assert f"predictions.csv{place}" in caught.value.message and said in caught.value.message
    assert "delete it and run `medpeft evaluate RUN`" in caught.value.hint


def test_missing_and_binary_files_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_predictions(tmp_path / "predictions.csv", ("x", "y"))
    (tmp_path / "predictions.csv").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(DataError, match="wanted 'id'"):
        read_predictions(tmp_path / "predictions.csv", ("x", "y"))
