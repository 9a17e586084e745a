"""The documentation names everything there is, points to files that exist, and says what the code says."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import timm

from medpeft_cli.data.card import card_names
from medpeft_cli.document import cli_reference
from medpeft_cli.methods import METHODS, catalogue
from medpeft_cli.methods.adapt import adapt
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.methods.tuners import TUNERS
from tests.conftest import ROOT
from tests.golden.test_unet_counts import unet_counts
from tests.methods.tiny import distance, images, perturb, tiny

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METHODS_PAGE = (ROOT / "docs/methods.md").read_text()
OWN_SECTION = [name for name in METHODS if name not in TUNERS or name == "lora"]
ROWS = METHODS_PAGE.split("\n## More methods")[1].split("\n")
TABLE = {line.split("`")[1]: line.strip("| ").split(" | ") for line in ROWS if line.startswith("| `")}
NEED_WEIGHTS = {"unilora", "frod", "shira", "boft"}  # peft looks at the weights: no counting on the meta device


def messages() -> str:
    """Every text that the package can say, f-strings cut at their values."""
    sources = [path.read_text() for path in (ROOT / "medpeft_cli").rglob("*.py")]
    constants = [node.value for text in sources for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    unknown = [f"unknown {kind}" for text in sources for kind in re.findall(r'lookup\("([^"]+)"', text)]
    return "\n".join([text for text in constants if isinstance(text, str)] + unknown)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_command_line_page_is_up_to_date():
    page = (ROOT / "docs/cli.md").read_text()
    assert page == cli_reference(), "run python -m medpeft_cli.document > docs/cli.md"


def test_every_command_shows_two_examples():
    commands = re.findall(r"^## (medpeft.*)$", cli_reference(), re.M)
    assert {"medpeft prepare", "medpeft finetune", "medpeft list methods"} <= set(commands)
    for command in commands[1:]:
        section = cli_reference().split(f"\n## {command}\n")[1].split("\n## ")[0]
        assert len(re.findall(rf"^{command} ?", section.split("```\n")[-2], re.M)) >= 2, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            file, _, anchor = target.partition("#")
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


def test_every_page_is_reached_from_the_index():
    index = (ROOT / "docs/index.md").read_text()
    assert [page.name for page in PAGES[1:] if f"({page.name}" not in index and page.name != "index.md"] == []


def test_every_card_has_a_section():
    page = (ROOT / "docs/datasets.md").read_text()
    assert [name for name in card_names() if f"\n## {name}\n" not in page] == []


def test_every_method_has_a_section_or_a_row():
    assert [name for name in OWN_SECTION if f"\n## {name}\n" not in METHODS_PAGE] == []
    assert TABLE.keys() == TUNERS.keys() - {"lora"}


@pytest.mark.parametrize("name", OWN_SECTION)
def test_a_method_section_has_all_its_facts(name):
    section = METHODS_PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert [field for field in METHODS[name].config.model_fields if f"`{field}`" not in section] == []
    assert re.findall(r"arXiv:[\d.]+\d", METHODS[name].reference) == re.findall(r"arXiv:[\d.]+\d", section)
    assert all(part in section for part in ("**Parameters**", "**Identity at the start**", "**Merge**"))
    assert ("**Merge**: impossible" in section) == (not METHODS[name].mergeable)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in NEED_WEIGHTS])
def test_the_table_says_what_the_code_says(name):
    _, title, _, *counts, merge, reference = TABLE[name]
    method = METHODS[name]
    assert title.replace("³", "3") in method.titles.values()
    assert reference.partition(" ")[0] in method.reference
    assert (merge == "no") == (not method.mergeable)
    for family, printed in zip(("vit", "cnn", "unet"), counts, strict=True):
        assert (printed == "–") == (family not in method.titles)
        if printed != "–":
            assert f"{default_count(name, family):,}" == printed


def default_count(name: str, family: str) -> int:
    """Trained parameters on ViT-B, ResNet-50 or the U-Net of Stable Diffusion 1.5."""
    if family == "unet":
        return unet_counts(name)["method"]
    with torch.device("meta"):
        model = timm.create_model({"vit": "vit_base_patch16_224", "cnn": "resnet50"}[family], num_classes=3)
        return adapt(model, family, METHODS[name], METHODS[name].config()).counts()["method"]


def test_every_message_of_the_troubleshooting_page_is_one_of_the_code():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    parts = [part.strip(" :,") for text in quoted for part in text.split("…")]
    known = messages()
    assert len(rows) > 50
    assert [part for part in parts if part not in known] == []


def test_the_example_method_works(tmp_path, monkeypatch):
    """Run the three blocks of docs/extending.md: file, hyper-parameters, facts."""
    code, config, facts = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    namespace = dict(vars(catalogue))
    exec(config, namespace)
    method = eval(facts, namespace)
    monkeypatch.setattr(catalogue, "GammaConfig", namespace["GammaConfig"], raising=False)
    (tmp_path / "gamma.py").write_text(code)
    spec = importlib.util.spec_from_file_location(method.code, tmp_path / "gamma.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, method.code, module)
    spec.loader.exec_module(module)

    cell = adapt(tiny("vit"), "vit", method, method.config())
    cell.model.eval()
    with torch.no_grad():
        assert torch.equal(cell.model(images()), tiny("vit")(images()))
        assert cell.counts()["method"] == 2 * 2 * 64
        perturb(cell)
        merged = tiny("vit")
        merged.load_state_dict(merged_state_dict(cell))
        assert distance(merged(images()), cell.model(images())) < 1e-5
        assert distance(merged(images()), tiny("vit")(images())) > 1e-3
