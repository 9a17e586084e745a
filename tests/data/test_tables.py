"""Tables as they come, and what their rows may say."""

import gzip
import sys
from importlib.util import find_spec

import pytest

from medpeft_cli.data.layouts import list_source
from medpeft_cli.data.prepare import prepare
from medpeft_cli.data.tables import read_table
from medpeft_cli.errors import DataError

TABLE = {"kind": "csv", "file": "t.csv", "image": "image", "label": "label", "extensions": (".png",)}


@pytest.fixture
def table(tmp_path, write_picture, make_card):
    """Return a function: write t.csv and x.png, y.png; list them with a csv card."""

    def listing(content: str | bytes | None, fields=None, **layout):
        for seed, name in enumerate("xy"):
            write_picture(tmp_path / "source" / f"{name}.png", seed)
        if content is not None:
            (tmp_path / "source/t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
        return list_source(make_card(TABLE | layout, **(fields or {})), tmp_path / "source")

    return listing


def brief(listing):
    return [(sample.id, sample.label, sample.group) for sample in listing.samples]


# ---- how they are written ----


@pytest.mark.parametrize(
    "text",
    [
        "image,label\nx,a\ny,b\n",
        b"\xef\xbb\xbfimage,label\r\nx,a\r\n\r\ny,b\r\n",
        "image,label\nx,a\ny,b\n".encode("utf-16"),
        "image;label;Größe\nx;a;é\ny;b;ü\n".encode("cp1252"),
        "image\tlabel\nx\ta\ny\tb",
        'image,label,\n"x",a,\n y , b ,\n',
        "image,label,other,other\nx,a,1,2\ny,b,3,4\n",
        gzip.compress(b"image,label\nx,a\ny,b\n", mtime=0),
    ],
    ids=[
        "plain",
        "bom-crlf-blank",
        "utf-16",
        "windows-1252-semicolon",
        "tabs",
        "quoted-unnamed-column",
        "doubled-column",
        "gzip",
    ],
)
def test_tables_are_read_as_they_come(table, text):
    assert brief(table(text)) == [("x", "a", "x"), ("y", "b", "y")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,lable\nx,a\n", "t.csv:1: label: no such column"),
        ("image,label,label\nx,a,a\n", "t.csv:1: label: two columns of that name"),
        ("image,label\nx,a\ny\n", "t.csv:3: got 1 columns, the header has 2"),
        ("image,label\nx,a\ny,c\n", "t.csv:3: label: got 'c', wanted one of a, b"),
        ('image,label\nx,"a\n', "t.csv:2: unexpected end of data"),
        ("image,label\n", "t.csv: no rows"),
        ("", "t.csv:1: image: no such column"),
        (b"image,label\nx,a\ny\0,b\n", "t.csv:3: no text, it holds zero bytes"),
        (b"image,label\nx,a\ny,\x81\n", "t.csv:3: text is neither UTF-8 nor Windows-1252"),
        ("image,label\nx,a\ny,b\n".encode("utf-32"), "t.csv:1: no text, it holds zero bytes"),
        ("image,label\nx,a,b\n", "t.csv:2: got 3 columns, the header has 2"),
        (gzip.compress(b"image,label\nx,a\n", mtime=0)[:-9], "t.csv: damaged archive"),
        ("image,label\nq,a\nr,b\n", "none of the 2 pictures it names is there, such as q (t.csv:2)"),
        ("image,label\n../x.png,a\n", "t.csv:2: '../x.png' leads out of the source folder"),
        ("image,label\n/etc/x.png,a\n", "t.csv:2: '/etc/x.png' leads out"),
        ("image,label\nC:\\x.png,a\n", "leads out of the source folder"),
        ("image,label\nd\\..\\..\\x.png,a\n", "leads out of the source folder"),
    ],
)
def test_broken_tables_are_refused_with_the_line(table, text, message):
    with pytest.raises(DataError) as caught:
        table(text)
    assert message in caught.value.message


def test_broken_columns_are_answered_with_what_to_do(table):
    for text, hint in (
        ("image,label,label\nx,a,a\n", "rename one of them"),
        ("image,label\nx,a,b\n", "a text that holds a comma must stand in quotation marks"),
        ("image;label\nx;a;b\n", "a text that holds a semicolon must stand in quotation marks"),
    ):
        with pytest.raises(DataError) as caught:
            table(text)
        assert caught.value.hint == hint


def test_a_table_whose_rows_have_no_label_names_the_reason(tmp_path, write_picture, make_card):
    for name in "xy":
        write_picture(tmp_path / "source" / f"{name}.png")
    (tmp_path / "source/t.csv").write_text("image,label\nx,\ny,todo\n")
    with pytest.raises(DataError, match="class 'a' has no picture") as caught:
        prepare(make_card(TABLE | {"ignore_labels": ("todo",)}), tmp_path / "source", tmp_path / "root")
    assert caught.value.message.endswith("; left out 1: no label, 1: label 'todo' is ignored")


def test_rows_without_use_are_listed_with_their_line(table, write_picture, tmp_path):
    write_picture(tmp_path / "source/z.png", 9)
    write_picture(tmp_path / "source/unnamed.png", 8)
    listing = table("image,label\nx,a\ny,\nz,todo\n,a\ngone,b\n", ignore_labels=("todo",))
    assert brief(listing) == [("x", "a", "x")]
    assert listing.left_out == [
        ("y (t.csv:3)", "no label"),
        ("z (t.csv:4)", "label 'todo' is ignored"),
        (" (t.csv:5)", "no file name"),
        ("gone (t.csv:6)", "no such picture"),
        ("unnamed.png", "not named in t.csv"),
    ]


def test_two_rows_of_one_picture_join_their_groups_or_disagree(table, write_picture, tmp_path):
    write_picture(tmp_path / "source/z.png", 9)
    listing = table("image,label,who\nx,a,p1\nx.png,a,p2\ny,a,p2\nz,a,p3\nz,b,p3\n", group="who")
    assert brief(listing) == [("x", "a", "p1"), ("y", "a", "p1")]
    assert listing.left_out == [("z.png", "rows of t.csv disagree on its label")]


def test_pictures_are_found_in_sub_folders_and_doubled_names_are_refused(table, write_picture, tmp_path):
    write_picture(tmp_path / "source/deep/er/z.png", 9)
    assert table("image,label\nz,a\n").samples[0].file == "deep/er/z.png"
    write_picture(tmp_path / "source/other/z.png", 9)  # the same bytes: no matter which
    assert table("image,label\nz,a\n").samples[0].file == "deep/er/z.png"
    write_picture(tmp_path / "source/other/z.png", 10)
    with pytest.raises(DataError, match="'z' may be deep/er/z.png or other/z.png"):
        table("image,label\nz,a\n")
    assert table("image,label\nother/z,a\n").samples[0].file == "other/z.png"


def test_a_split_column_is_the_official_split(table):
    listing = table(
        "image,label,fold\nx,a,learn\ny,b,exam\n", split="fold", split_names={"learn": "train", "exam": "test"}
    )
    assert [sample.split for sample in listing.samples] == ["train", "test"]
    with pytest.raises(DataError, match="t.csv:3: fold: got 'exma', wanted one of learn, exam"):
        table("image,label,fold\nx,a,learn\ny,b,exma\n", split="fold", split_names={"learn": "train", "exam": "test"})


# ---- several classes, texts ----

FLAGS = {"label": None, "label_columns": ("p", "q", "r"), "labels": {"p": "a", "q": "b", "r": "c"}}
THREE = {"task": "multilabel", "classes": ("a", "b", "c")}


def test_a_column_a_class_is_present_absent_or_uncertain(table):
    listing = table("image,p,q,r\nx,1,0,1.0\ny,,-1,0.0\n", fields=THREE, **FLAGS)
    assert [(sample.label, sample.attributes["uncertain"]) for sample in listing.samples] == [("a|c", ""), ("", "b")]


def test_columns_of_true_and_false_are_read(table):
    listing = table("image,p,q,r\nx,True,false,FALSE\ny,False,TRUE,true\n", fields=THREE, **FLAGS)
    assert [sample.label for sample in listing.samples] == ["a", "b|c"]


def test_what_one_row_is_sure_of_is_not_uncertain(table):
    listing = table("image,p,q,r\nx,1,-1,-1\nx,0,-1,1\ny,0,0,0\ny,-1,0,0\n", fields=THREE, **FLAGS)
    assert [(sample.label, sample.attributes["uncertain"]) for sample in listing.samples] == [("a|c", "b"), ("", "a")]


def test_rows_of_one_picture_join_their_classes(table):
    listing = table("image,label\nx,c\nx,a\ny,b|a\n", fields=THREE)
    assert [sample.label for sample in listing.samples] == ["a|c", "a|b"]


def test_one_hot_columns_classify(table):
    fields = {"classes": ("a", "b", "c")}
    listing = table("image,p,q,r\nx,1,0,0\ny,0,0,0\n", fields=fields, **FLAGS)
    assert brief(listing) == [("x", "a", "x")] and listing.left_out == [("y (t.csv:3)", "no label")]
    for row, message in (
        ("1,1,0", "t.csv:2: got a and b, wanted one class"),
        ("0.4,0,0", "t.csv:2: p: got '0.4', wanted 1, 0"),
    ):
        with pytest.raises(DataError) as caught:
            table(f"image,p,q,r\nx,{row}\n", fields=fields, **FLAGS)
        assert message in caught.value.message


PAIRS = {"label": None, "text": "report"}
TEXTS = {"task": "text", "classes": ()}


def test_pictures_and_texts(table):
    listing = table('image,report\nx,"Seen  by ___.\nClear."\ny,\n', fields=TEXTS, **PAIRS)
    assert [(sample.id, sample.label, sample.text) for sample in listing.samples] == [("x", "", "Seen. Clear.")]
    assert listing.left_out == [("y.png", "no text")]
    assert listing.texts["marks"] == 1


def test_sections_and_labels_beside_a_text(table):
    text = "image,label,report\nx,a,FINDINGS: f IMPRESSION: i\ny,b,HISTORY: h\n"
    listing = table(text, fields={"task": "text"}, text="report", sections=("impression",))
    assert [(sample.label, sample.text) for sample in listing.samples] == [("a", "i")]
    assert listing.left_out == [("y.png", "no impression in its row")]


def test_a_picture_with_two_texts_keeps_the_first_and_that_is_said(table):
    listing = table("image,report\nx,one\nx,two\ny,three\n", fields=TEXTS, **PAIRS)
    assert [sample.text for sample in listing.samples] == ["one", "three"]
    assert "1 picture with different texts in several rows; the first is taken" in listing.notes


# ---- where tables are ----


def test_a_table_is_found_by_its_name_below_the_source(table, tmp_path):
    table("image,label\nx,a\ny,b\n")
    (tmp_path / "source/meta").mkdir()
    (tmp_path / "source/t.csv").rename(tmp_path / "source/meta/t.csv")
    listing = table(None)
    assert brief(listing) == [("x", "a", "x"), ("y", "b", "y")]
    (tmp_path / "source/old").mkdir()
    (tmp_path / "source/old/t.csv").write_text("image,label\nx,b\n")
    with pytest.raises(DataError, match="t.csv may be .*meta/t.csv or .*old/t.csv"):
        table(None)


def test_a_table_that_is_a_link_out_of_the_source_is_refused(table, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "t.csv").write_text("image,label\nx,a\n")
    (tmp_path / "source/t.csv").symlink_to(tmp_path / "t.csv")
    with pytest.raises(DataError, match="a link to"):
        table(None)


def test_groups_of_a_further_table(table, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/groups.csv").write_text("image,lesion\nx,l1\n")
    listing = table("image,label\nx,a\ny,b\n", group="lesion", group_file="groups.csv")
    assert brief(listing) == [("x", "a", "l1"), ("y", "b", "y")]


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_is_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    content = {"image": ["x", "y"], "label": [0, None], "pixels": [b"1", b"2"]}
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "t.parquet")
    rows = read_table(tmp_path / "t.parquet", ["image", "label"])
    assert [(row.line, row["image"], row["label"]) for row in rows] == [(2, "x", "0"), (3, "y", "")]
    with pytest.raises(DataError, match="t.parquet:1: pixels: no such column"):
        read_table(tmp_path / "t.parquet", ["pixels"])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pyarrow, which is not installed") as caught:
        read_table(tmp_path / "t.parquet", ["image"])
    assert 'pip install "medpeft[parquet]"' in caught.value.hint
