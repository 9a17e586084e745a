import re

from medpeft_cli.console import Console
from medpeft_cli.errors import DataError


def test_where_there_is_no_terminal_progress_is_one_plain_line(capsys):
    with Console().progress(4, "run", "steps") as advance:
        advance(1, resumed=True)
        for number in range(3):
            advance(1, note=f"f1 0.{number}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("run: 4/4 · ") and lines[0].endswith("f1 0.2")
    assert "\x1b" not in lines[0] and "\r" not in lines[0]


def test_a_start_that_finds_all_done_has_no_rate(capsys):
    with Console().progress(4, "run", "steps") as advance:
        advance(4, note="checking", resumed=True)
        advance(0, note="")
    assert capsys.readouterr().err == "run: 4/4 · done before\n"


def test_a_bar_that_has_done_nothing_shows_no_rate(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with Console().progress(4, "run", "steps") as advance:
        advance(4, resumed=True)
    shown = capsys.readouterr().err
    assert "4/4" in shown and "steps/s" not in shown


def test_quiet_says_nothing_but_warnings(capsys):
    console = Console()
    console.quiet = True
    console.say("decided")
    with console.progress(1, "run", "steps") as advance:
        advance(1)
    assert capsys.readouterr().err == ""
    console.warn("look")
    assert capsys.readouterr().err == "warning: look\n"


def test_a_table_cannot_be_styled_by_its_content(capsys):
    console = Console()
    console.table([{"name": "[red]x[/red]", "n": 1234, "none": None}], ["name", "n", "none"])
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out and "1,234" in out and "–" in out


def test_a_long_list_is_shown_by_its_first_and_its_length(capsys):
    console = Console()
    rows = [{"few": list("abcdefghi"), "many": [f"c{n}" for n in range(114)]}]
    console.table(rows, ["few", "many"])
    out = capsys.readouterr().out
    assert "a, b, c, d, e, f, g, h, i" in out and "114: c0, c1, c2, …" in out and "c3" not in out
    console.json = True
    console.table(rows, ["few", "many"])
    assert '"c113"' in capsys.readouterr().out


def test_a_high_rate_is_a_plain_number(capsys):
    with Console().progress(50_000, "pack", "images") as advance:
        advance(50_000)
    assert re.search(r"pack: 50,000/50,000 · [\d,]{6,} images/s · 0 s", capsys.readouterr().err)


def test_names_in_the_data_cannot_steer_the_terminal(capsys):
    console = Console()
    console.say("a\x1b[31m.png\nnäxt\udcff")
    console.warn("\x07")
    console.error(DataError("\x9b2J", "\r"))
    expected = "a\\x1b[31m.png\nnäxt\\udcff\nwarning: \\x07\nerror: \\x9b2J\n  hint: \\r\n"
    assert capsys.readouterr().err == expected
