import pytest

from medpeft_cli.data.text import Reader, sections, token_facts, token_note, without_marks


@pytest.mark.parametrize(
    "report",
    [
        "IMPRESSION: no change.",
        "Impression: no change.",
        " impression :\n no\n change.\n",
        "IMPRESSION\n\n no change.",
        "Impression - no change.",
        "IMPRESSION  no change.",
        "**Impression:** no change.",
        "## Impression\nno change.\n## Plan\nCT.",
        "CONCLUSION: no change.",
        "OPINION:\r\nno change.\r\n",
        "FINAL IMPRESSION: no change.",
        "FINDINGS: clear. IMPRESSION: no change. RECOMMENDATION: CT.",
        "Findings: clear. Impression: no change. Comparison: none.",
        "IMPRESSION: no change.\n NOTIFICATION: told.",
        "IMPRESSION: no change.\n ADDENDUM: more.\n IMPRESSION: other.",
        "WET READ: 10 pm\n IMPRESSION: bad.\n________________\n FINAL REPORT\n IMPRESSION: no change.",
        "FINAL ADDENDUM\n ADDENDUM:\n IMPRESSION: late.\n FINAL REPORT\n IMPRESSION: no change.",
    ],
)
def test_the_impression_is_found_in_every_style(report):
    assert sections(report)["impression"] == "no change."


@pytest.mark.parametrize(
    ("report", "findings"),
    [
        ("FINDINGS:\n LUNGS: clear.\n HEART: normal.\n IMPRESSION: fine", "LUNGS: clear. HEART: normal."),
        (
            "CHEST FINDINGS: clear.\n ABDOMEN AND PELVIS WITH CONTRAST:\n x",
            "clear. ABDOMEN AND PELVIS WITH CONTRAST: x",
        ),
        ("FINDINGS: clear at 10:31.\n TECHNIQUE: two views", "clear at 10:31."),
        ("FINDINGS: left\n FINDINGS: right", "left right"),
        ("FINDINGS/IMPRESSION: both", "both"),
        ("Findings and impression: both", "both"),
    ],
)
def test_findings_end_where_the_next_section_begins(report, findings):
    assert sections(report)["findings"] == findings


def test_findings_and_impression_in_one_are_both():
    assert sections("FINDINGS & IMPRESSION: clear") == {"findings": "clear", "impression": "clear"}


@pytest.mark.parametrize(
    "report",
    [
        "",
        "clear lungs",
        "With these findings: edema is seen.",
        "of the\nfindings\nabove",
        "PA AND LATERAL: clear",
        "IMPRESSION:\n",
    ],
)
def test_prose_and_empty_sections_are_no_sections(report):
    assert sections(report) == {}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("No change.", "No change."),
        ("Discussed with Dr. ___ by ___ at ___ on ___.", "Discussed."),
        ("Compared to ___, no change (___).", "Compared, no change."),
        ("Seen since the ___ study, as on ___; stable.", "Seen study, as; stable."),
        ("___", ""),
        ("Line from Dr. [**Last Name 7**] ends at XXXX.", "Line ends."),
        ("snake_case __init__ and _____ stay", "snake_case __init__ and _____ stay"),
    ],
)
def test_marks_go_with_what_leads_to_them(text, clean):
    assert without_marks(text) == clean


def test_a_reader_prefers_sections_and_counts_marks_of_what_it_takes():
    reader = Reader(("impression", "findings"))
    assert reader.read("INDICATION: ___\nFINDINGS: a\nIMPRESSION: b ___") == ("b", "impression")
    assert reader.read("FINDINGS: a") == ("a", "findings")
    assert reader.read("HISTORY: a") == ("", "") == reader.read("IMPRESSION: ___.")
    assert reader.facts() == {
        "sections": {"findings": 1, "impression": 1}, "marks": 1, "texts_with_marks": 1, "marks_are": "removed",
    }  # fmt: skip
    assert reader.notes() == [
        "texts: 1 from findings, 1 from impression",
        "1 de-identification mark (___) in 1 text, removed",
    ]


def test_a_reader_without_sections_takes_the_whole_text_and_may_keep_marks():
    reader = Reader((), "keep")
    assert reader.read("seen\n by ___") == ("seen by ___", "")
    assert reader.facts()["marks_are"] == "kept" and "a model may learn to write them" in reader.notes()[1]


def test_a_report_of_any_length_is_read_in_linear_time():
    for report in ("[**" * 20_000 + "___", " " * 200_000 + "x ___", "on " * 50_000 + "___", "IMPRESSION: a. " * 5_000):
        without_marks(report)
        sections(report)  # a quadratic pattern would run into the time limit of the tests


def test_tokens_are_counted_as_clip_reads_them():
    facts = token_facts(["no acute process", "word " * 75, "word " * 76])
    assert (facts["median"], facts["longest"], facts["over_limit"], facts["limit"]) == (77, 78, 1, 77)
    assert "1 (33.3 %) beyond the 77" in token_note(facts)
    assert token_facts([])["over_limit"] == 0
