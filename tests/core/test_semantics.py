from __future__ import annotations

from pathlib import Path

import yaml

from geoloc.core.semantics import CLASSES, SemanticClass


def test_classes_are_those_of_the_data_set(shared_data: Path) -> None:
    table = yaml.safe_load((shared_data / "map25d" / "color_map.yaml").read_text())
    assert {name: number for number, name in enumerate(CLASSES)} == table["labels"]


def test_a_class_is_its_row() -> None:
    assert len(CLASSES) == 25
    assert SemanticClass.BUILDINGS == 4
    assert SemanticClass(19).label == "water"
