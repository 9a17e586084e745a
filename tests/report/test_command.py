"""`medpeft report` as it is called: what goes to stdout, what is written, what is refused."""

import pytest
from typer.testing import CliRunner

from medpeft_cli.cli import app
from medpeft_cli.errors import DataError, RecipeError


def report(*words):
    return CliRunner().invoke(
        app, [*words[:1], "report", *map(str, words[1:])] if words[0] == "--json" else ["report", *map(str, words)]
    )


@pytest.fixture
def folder(record, results):
    return results(*(record(d, m, s) for d in ("isic", "smdg") for m in ("full", "ssf") for s in range(2)))


def written(folder):
    return (
        {path.name: path.read_text() for path in sorted((folder / "report").glob("*"))}
        if (folder / "report").exists()
        else {}
    )


def test_the_terminal_form_writes_nothing(folder):
    done = report(folder)
    assert done.exit_code == 0 and "HAM10000" in done.stdout and written(folder) == {}


@pytest.mark.parametrize(
    ("option", "names"),
    [("--latex", ["numbers.tex", "tables.tex"]), ("--csv", ["tables.csv"]), ("--markdown", ["tables.md"])],
)
def test_one_form_is_printed_and_written(folder, option, names):
    done = report(folder, option)
    assert done.exit_code == 0 and list(written(folder)) == names
    assert done.stdout == written(folder)[names[-1]] and "also in" in done.stderr
    assert report(folder, option).stdout == done.stdout  # files of a report are no runs


def test_json_is_a_form(folder):
    done = report("--json", folder)
    assert done.exit_code == 0 and done.stdout == written(folder)["tables.json"]


def test_several_forms_are_written_and_their_paths_printed(folder):
    done = report(folder, "--latex", "--csv", "--markdown")
    names = ["tables.tex", "numbers.tex", "tables.csv", "tables.md"]
    assert done.exit_code == 0 and done.stdout.splitlines() == [str(folder / "report" / name) for name in names]
    assert sorted(written(folder)) == sorted(names)


def test_a_folder_that_cannot_be_written_still_gives_its_table(folder):
    (folder / "report").write_text("in the way")
    done = report(folder, "--csv")
    assert done.exit_code == 0 and done.stdout.startswith("table,layout,") and "warning: " in done.stderr
    assert report(folder, "--csv", "--latex").exit_code != 0


def test_rows_columns_and_filters_are_options(folder):
    done = report(
        folder,
        "--rows",
        "dataset",
        "--columns",
        "method,seed",
        "--where",
        "dataset=isic",
        "--where",
        "method=ssf",
        "--csv",
    )
    assert done.exit_code == 0, done.stderr
    assert [line.split(",")[5:9] for line in done.stdout.splitlines()[1:]] == [
        ["HAM10000", "SSF", str(s), ""] for s in (0, 1)
    ]


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["--where", "isic"], RecipeError, "--where dataset=isic"),
        (["--where", "datset=isic"], RecipeError, "did you mean 'dataset'"),
        (["--rows", "metod"], RecipeError, "did you mean 'method'"),
        (["--where", "dataset=isik"], DataError, "dataset: HAM10000, SMDG"),
        (["--baseline", "lora"], RecipeError, "known: full, ssf"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(folder, words, error, hint):
    done = report(folder, *words)
    assert isinstance(done.exception, error) and hint in done.exception.hint
