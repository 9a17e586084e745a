"""Texts of pictures: sections of radiology reports, de-identification marks, and length in tokens of CLIP's encoder."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from medpeft_cli.words import counted

TOKEN_LIMIT = 77  # of CLIP's text encoder, start and end included
MARK = re.compile(r"(?<!_)_{3}(?!_)|\[\*\*.{0,99}?\*\*\]|\bX{4,}\b", re.S)  # MIMIC-CXR, MIMIC-III, Open-i

# heading → section, in any case; "and" also stands for / and &. Other headings in capitals end a section, too.
HEADINGS = {
    **dict.fromkeys(("impression", "impressions", "imp", "conclusion", "conclusions", "opinion"), "impression"),
    **dict.fromkeys(("interpretation", "summary", "impression and recommendation"), "impression"),
    **dict.fromkeys(("findings and impression", "impression and findings"), "both"),
    **dict.fromkeys(("finding", "findings", "observations"), "findings"),
    **dict.fromkeys(("wet read", "preliminary report", "preliminary read"), "wet read"),
    **dict.fromkeys(("addendum", "final addendum"), "addendum"),
    **dict.fromkeys(("final report",), "final report"),
    **dict.fromkeys(("examination", "exam", "study", "technique", "procedure", "comparison", "comparisons"), ""),
    **dict.fromkeys(("indication", "indications", "history", "clinical history", "clinical information"), ""),
    **dict.fromkeys(("reason for exam", "reason for examination", "recommendation", "recommendations"), ""),
    **dict.fromkeys(("recommendation(s)", "notification", "notifications"), ""),
}
# parts of the body that begin a line of the findings in capitals; they end nothing
BODY = {
    "abdomen", "airways", "aorta", "bones", "cardiac", "catheters", "chest", "devices", "diaphragm", "heart", "hila", "lines",
    "lung", "lungs", "mediastinum", "osseous", "pleura", "pleural", "ribs", "skeleton", "spine", "tissues", "trachea",
    "tubes", "vasculature", "vessels",
}  # fmt: skip
_KNOWN = "|".join(
    re.escape(name).replace(r"\ and\ ", r"\s*(?:and|/|&)\s*").replace(r"\ ", r"[ \t]+")
    for name in sorted(HEADINGS, key=len, reverse=True)
)
_CAPITALS = r"[A-Z][A-Z0-9 ,/&'()\-]{2,60}"
_HEADING = re.compile(
    rf"(?<![A-Za-z])(?P<name>(?i:{_KNOWN})|{_CAPITALS}?|(?<=\# )[^\n:#]+?)"
    r"(?P<end>[ \t]*\**:(?!\d)\**|[ \t]+[-–—](?=[ \t])|[ \t]*[*#=]*(?=[ \t]*(?:\n|\Z))|[ \t]{2})"
)
_BEFORE_HEADING = " \t*#=_"  # decoration between the start of a line and its heading
_TITLE = r"(?:\b(?:Drs?|Mrs?|Ms)\b\.?\s*)?"
_PREPOSITIONS = r"(?:\b(?:at|by|dated|from|of|on|since|to|with)\s{1,8}(?:the\s{1,8})?){0,3}"
_MARK_AND_LEAD = re.compile(rf"{_PREPOSITIONS}{_TITLE}(?:{MARK.pattern})", re.S | re.I)


def sections(report: str) -> dict[str, str]:
    """Return the findings and the impression of a radiology report, as far as it has them.

    A heading is a word of `HEADINGS` at the start of a line, in any case, with a colon, with a dash, or in capitals alone on
    its line; or anywhere if in capitals with a colon, or capitalised with a colon behind the end of a sentence. Any
    phrase in capitals with a colon at the start of a line ends the section before it. What stands before the
    line FINAL REPORT (wet reads, addenda) and an addendum at the end are no part of the report. Sections of one name
    are joined.

    Returns:
        "findings" and "impression" → text on one line; conclusion, opinion and the like are an impression, and a
        section "findings and impression" is both.
    """
    heads = list(_headings(report))
    if "final report" in (names := [name for _, _, name in heads]):
        heads = heads[len(names) - names[::-1].index("final report") :]
    found: dict[str, list[str]] = {"findings": [], "impression": []}
    for number, (_, end, name) in enumerate(heads):
        if name == "addendum" and any(found.values()):
            break
        stop = heads[number + 1][0] if number + 1 < len(heads) else len(report)
        text = one_line(report[end:stop])
        for wanted in ("findings", "impression") if name == "both" else (name,):
            if wanted in found and text:
                found[wanted].append(text)
    return {name: " ".join(texts) for name, texts in found.items() if texts}


def _headings(report: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, section) of each heading."""
    for match in _HEADING.finditer(report):
        name = re.sub(r"\s*[/&]\s*", " and ", match["name"])
        key = " ".join(name.lower().split())
        before = report[report.rfind("\n", 0, match.start()) + 1 : match.start()]
        end, known = match["end"].strip(" \t*#="), key in HEADINGS
        if before.strip(_BEFORE_HEADING):  # within a line
            capitalised = name[0].isupper() and before.rstrip()[-1:] in ".;:"
            is_heading = known and end == ":" and (name.isupper() or capitalised)
        elif known:
            marked = end or before.strip() or "*" in match["end"]  # a colon, a dash, or **bold**
            is_heading = end == ":" or name.isupper() or bool(marked and name[0].isupper())
        else:
            ends = _by_word(key) or not BODY.intersection(re.split(r"\W+", key))
            is_heading = "#" in before or bool(end == ":" and ends)
        if is_heading:
            yield match.start(), match.end(), HEADINGS.get(key) or _by_word(key)


def _by_word(key: str) -> str:
    """Return the section of a heading that is not in the list, such as CHEST FINDINGS."""
    words = set(re.split(r"\W+", key))
    return "impression" if words & {"impression", "conclusion"} else "findings" if "findings" in words else ""


def one_line(text: str) -> str:
    """Return a text without line ends, rules of underscores and the decoration around it."""
    return " ".join(re.sub(r"_{4,}|={4,}|-{4,}", " ", text).split()).strip("*# ")


def without_marks(text: str) -> str:
    """Return a text without de-identification marks.

    A mark goes together with the title and the prepositions right before it ("discussed with Dr. ___ at ___." becomes
    "discussed."); blanks, empty brackets and commas that are left over go, too.
    """
    if not MARK.search(text):
        return text
    text = _MARK_AND_LEAD.sub(" ", " ".join(text.split()))
    text = " ".join(text.split())
    text = re.sub(r"\(\s*[,;.]?\s*\)|\[\s*\]", " ", text)
    text = re.sub(r" ([,.;:)])", r"\1", " ".join(text.split()))
    text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
    text = re.sub(r"[,;:]+(?=\.)|(?<=\.)\s*\.(?!\.)", "", text)
    return " ".join(text.split()).lstrip(",;:. ")


@dataclass
class Reader:
    """Takes the text of each report in turn, and counts what it met.

    Attributes:
        wanted: sections in order of preference; none = the whole text.
        marks: remove or keep.
        used: section → texts taken from it.
        found: de-identification marks in the texts that were taken.
        marked: texts with such a mark.
    """

    wanted: Sequence[str] = ()
    marks: str = "remove"
    used: Counter[str] = field(default_factory=Counter)
    found: int = 0
    marked: int = 0

    def read(self, report: str) -> tuple[str, str]:
        """Return (text, its section); "" where no wanted section is there or nothing is left of it."""
        parts = sections(report) if self.wanted else {"": one_line(report)}
        section = next((name for name in self.wanted or ("",) if parts.get(name)), None)
        if section is None:
            return "", ""
        text = parts[section]
        number = len(MARK.findall(text))
        if self.marks == "remove":
            text = without_marks(text)
        if not re.search(r"\w", text.replace("_", "")):
            return "", ""
        self.found += number
        self.marked += number > 0
        self.used[section or "whole text"] += 1
        return text, section

    def facts(self) -> dict[str, Any]:
        """Return the counts for dataset.json."""
        return {
            "sections": dict(sorted(self.used.items())),
            "marks": self.found,
            "texts_with_marks": self.marked,
            "marks_are": "removed" if self.marks == "remove" else "kept",
        }

    def notes(self) -> list[str]:
        """Return the counts as lines for the console."""
        lines = [f"texts: {', '.join(f'{count:,} from {name}' for name, count in sorted(self.used.items()))}"]
        if self.found:
            how = "removed" if self.marks == "remove" else "kept; a model may learn to write them"
            marks = counted(self.found, "de-identification mark")
            lines.append(f"{marks} (___) in {counted(self.marked, 'text')}, {how}")
        return lines


def token_facts(texts: Iterable[str]) -> dict[str, Any]:
    """Return how long texts are in tokens of CLIP's encoder, start and end included (imports open_clip, thus torch).

    Returns:
        texts, limit, median, p95, longest: numbers of tokens; over_limit: texts whose end the encoder does not read.
    """
    from medpeft_cli import compat  # noqa: F401

    import open_clip.tokenizer  # isort: skip

    encode = open_clip.tokenizer.SimpleTokenizer().encode
    repeated = Counter(texts)  # many reports say the same
    lengths = sorted(length for text, count in repeated.items() for length in [len(encode(text)) + 2] * count)
    if not lengths:
        return {"texts": 0, "limit": TOKEN_LIMIT, "median": 0, "p95": 0, "longest": 0, "over_limit": 0}
    return {
        "texts": len(lengths),
        "limit": TOKEN_LIMIT,
        "median": lengths[len(lengths) // 2],
        "p95": lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
        "longest": lengths[-1],
        "over_limit": sum(length > TOKEN_LIMIT for length in lengths),
    }


def token_note(facts: dict[str, Any]) -> str:
    """Return `token_facts` as a line for the console."""
    share = 100 * facts["over_limit"] / max(facts["texts"], 1)
    return (
        f"{counted(facts['texts'], 'text')}, {facts['median']} tokens in the median, {facts['longest']} at most; {facts['over_limit']:,} "
        f"({share:.1f} %) beyond the {facts['limit']} that CLIP's text encoder reads"
    )
