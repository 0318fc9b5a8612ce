"""What the pages promise and no other tool checks: paths and modules that they name exist, rooms have their pages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
ROOMS = sorted(path.parent.name for path in (ROOT / "geoloc").glob("*/__init__.py"))
TOP = "geoloc|tests|docs|jobs|deploy|k8s|studies"
_PATH = re.compile(rf"(?<![\w./:{{-])(?:(?:[\w-]+/)*[\w-]+\.py|(?:{TOP})/[\w./-]*[\w/])")
_MODULE = re.compile(r"(?<![\w./-])geoloc(?:\.[a-z_0-9]+)+")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _words(page: Path) -> list[str]:
    """Code words and code blocks of a page, without the paths that a reader is to fill in."""
    text = page.read_text()
    words = re.findall(r"^```.*?^```|`[^`\n]+`", text, re.MULTILINE | re.DOTALL)
    return [word for word in words if "NAME" not in word]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    changelog = page.name == "CHANGELOG.md"  # it names what has gone
    for word in [] if changelog else _words(page):
        for path in _PATH.findall(word):
            assert (ROOT / path).exists() or (ROOT / "geoloc" / path).exists(), f"{path} in {word}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    for word in [] if page.name == "CHANGELOG.md" else _words(page):
        for module in _MODULE.findall(word):
            path = ROOT.joinpath(*module.split("."))
            known = path.is_dir() or any(each.with_suffix(".py").exists() for each in (path, path.parent))
            assert known, f"{module} in {word}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_paths_that_a_new_part_takes_are_in_folders_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`([\w/]+)/(?:test_)?NAME\.py`", text)
    assert len(paths) >= 8
    for path in paths:
        assert (ROOT / path).is_dir(), path


def test_every_room_of_the_library_has_its_page_and_its_floor() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    floors = {
        room.strip(): len(layers) - number for number, layer in enumerate(layers) for room in layer.split("|")
    }
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert {room: int(floor) for floor, room in rows} == {
        room: floor for room, floor in floors.items() if room != "__main__"
    }
    for room in set(ROOMS) - {"demo", "synthetic"}:
        assert f"api/{room}.md" in navigation, room
        assert f"::: geoloc.{room}\n" in (ROOT / "docs/api" / f"{room}.md").read_text(), room


def test_hooks_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks), "nothing is fetched at a commit"
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck: ")[2].partition("\n\n")[0]
    tools = set(re.findall(r"\$\(BIN\)/(ruff \w+|[\w-]+)", recipe)) | {"make check-locks", "make docs"}
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    for tool in tools:
        assert any(entry.startswith(tool) for entry in entries), tool


def test_issue_forms_have_what_a_form_needs() -> None:
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) >= 3
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form), path.name
        named = [field["id"] for field in form["body"]]
        assert len(set(named)) == len(named), path.name
        for field in form["body"]:
            assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
            assert field["attributes"]["label"]


def test_the_licence_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
