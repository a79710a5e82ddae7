"""What the pages say of the package is complete: no rule, attack, decision or file is forgotten."""

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from byzjax import aggregators, attacks, tasks
from byzjax.promises import Traits
from tests.environment import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
README, RULES, DECISIONS, CONTRIBUTING = (
    (ROOT / name).read_text() for name in ("README.md", "docs/rules.md", "docs/decisions.md", "CONTRIBUTING.md")
)

RULES_THERE = re.compile(r"^\|.*`agg\.\w+`.*\n", flags=re.MULTILINE)
ATTACKS_THERE = re.compile(r"^Attacks: (.*?)\.", flags=re.MULTILINE | re.DOTALL)


def check_same(found, wanted, where, source=None):
    """Fail with the names that are missing, and with those that are there for nothing.

    Args:
      found: the names that are there.
      wanted: those that should be.
      where: the place of ``found``.
      source: the place of ``wanted``, where a name may have been forgotten.
    """
    found, wanted = list(found), set(wanted)
    missing, unknown = sorted(wanted - set(found)), sorted(set(found) - wanted)
    twice = sorted({name for name in found if found.count(name) > 1})
    assert not missing, f"{where} lacks {', '.join(missing)}; add them."
    fix = f"{source} lacks; add it there, or remove it here" if source else "nothing is called; remove it"
    assert not unknown, f"{where} has {', '.join(unknown)}, which {fix}."
    assert not twice, f"{where} has {', '.join(twice)} more than once."


def registry_of(*modules):
    return " or ".join(f"REGISTRY in {Path(module.__file__).relative_to(ROOT)}" for module in modules)


@pytest.mark.parametrize(
    ("module", "verbs"),
    [(aggregators, {"aggregate", "chain"}), (attacks, set())],
    ids=["aggregators", "attacks"],
)
def test_all_is_the_registry(module, verbs):
    check_same(
        module.__all__, {*module.REGISTRY, *verbs, "REGISTRY"}, f"__all__ of {module.__name__}", registry_of(module)
    )
    for name, factory in module.REGISTRY.items():
        assert getattr(module, name) is factory, f"{module.__name__}.{name} is not what REGISTRY has"


def test_every_task_is_public():
    assert set(tasks.REGISTRY) <= set(tasks.__all__), "__all__ of byzjax.tasks lacks a name of REGISTRY; add it."


def test_the_table_of_the_readme_has_all_rules():
    rules = re.findall(r"`agg\.(\w+)`", "".join(RULES_THERE.findall(README)))
    check_same(rules, aggregators.REGISTRY, "the table of README.md", registry_of(aggregators))


def test_the_readme_lists_all_attacks():
    listed = ATTACKS_THERE.search(README).group(1).lower()
    found = ["_".join(name.split()) for name in listed.split(",")]
    check_same(found, attacks.REGISTRY, "README.md, in its list 'Attacks: …',", registry_of(attacks))


def test_every_rule_and_attack_has_its_heading():
    headings = re.findall(r"^### (.+)$", RULES, flags=re.MULTILINE)
    found = [name for heading in headings for name in re.findall(r"`(\w+)`", heading)]
    registered = [*aggregators.REGISTRY, *attacks.REGISTRY]
    where = "docs/rules.md, in its headings '### `name`',"
    check_same(found, registered, where, registry_of(aggregators, attacks))


def test_the_readme_is_for_a_first_look():
    """What grows with the registries is not counted."""
    rest = ATTACKS_THERE.sub("", RULES_THERE.sub("", README))
    lines, words = len(rest.splitlines()), len(rest.split())
    assert lines <= 78, f"README.md has {lines} lines besides rules and attacks; keep it to 78."
    assert words <= 500, f"README.md has {words} words besides rules and attacks; keep it to 500."


def test_the_promises_are_all_explained():
    table = CONTRIBUTING.split("| promise |")[1].split("\n\n")[0]
    found = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))
    check_same(found, Traits._fields, "the table of promises in CONTRIBUTING.md")


def entries():
    """Title and text of every decision."""
    parts = re.split(r"^### (.+)$", re.sub(r"^## .*$", "", DECISIONS, flags=re.MULTILINE), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def anchor(title):
    """The address that a heading gets in a page."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_decisions_are_short_and_have_three_parts():
    for title, text in entries():
        words = len(text.split())
        assert words <= 80, f"docs/decisions.md: '{title}' has {words} words; keep it to 80."
        decision, *parts = re.split(r"\*(Why|Price)\.\*", text)
        assert parts[::2] == ["Why", "Price"], f"docs/decisions.md: '{title}' needs one *Why.* and then one *Price.*"
        assert all(part.strip() for part in (decision, *parts)), f"docs/decisions.md: '{title}' has an empty part."


def test_the_index_of_decisions_is_complete_and_in_order():
    index = re.findall(r"^- \[(.+)\]\(#(.+)\)$", DECISIONS, flags=re.MULTILINE)
    check_same((title for title, _ in index), (title for title, _ in entries()), "the index of docs/decisions.md")
    assert index == [(title, anchor(title)) for title, _ in entries()]
    headings = re.findall(r"^## (.+)$", DECISIONS, flags=re.MULTILINE)
    assert headings == re.findall(r"^\*\*(.+)\*\*$", DECISIONS, flags=re.MULTILINE)
    assert len(headings) == 7
    assert not [heading for heading in (*headings, *(title for title, _ in entries())) if re.search(r"20\d\d", heading)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, _, place in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]+))?\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target} is not there"
        if place:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
            assert place in {anchor(heading) for heading in headings}, f"{page.name}: no heading for #{place}"


def test_every_page_is_in_the_index():
    found = re.findall(r"\((\w[\w-]*\.md)\)", (ROOT / "docs" / "index.md").read_text())
    check_same(found, {path.name for path in ROOT.glob("docs/*.md")} - {"index.md"}, "docs/index.md")


TEMPLATES = re.findall(r"```python\n# (byzjax/\S+)\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)


@pytest.mark.parametrize(("path", "code"), TEMPLATES, ids=[Path(path).stem for path, _ in TEMPLATES])
def test_templates_work_as_written(path, code, tmp_path, monkeypatch):
    """What a contributor copies imports what is there, and its example holds."""
    assert (ROOT / path).parent.is_dir()
    assert not (ROOT / path).exists(), "a template is not the file of a rule that is there"
    copy = tmp_path / Path(path).name
    copy.write_text(code)
    spec = importlib.util.spec_from_file_location(f"template_{copy.stem}", copy)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    tried = doctest.testmod(module)
    assert tried.failed == 0
    assert tried.attempted > 0 or "experiments" in path
    if "experiments" in path:
        for variant in ("paper", "released"):
            assert module.experiment(variant).task().num_workers == 20


@pytest.mark.parametrize(("path", "code"), TEMPLATES, ids=[Path(path).stem for path, _ in TEMPLATES])
def test_templates_pass_the_linter(path, code):
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    for command in (["check"], ["format", "--diff"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", path, "-"]
        told = subprocess.run(arguments, input=code, cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr
