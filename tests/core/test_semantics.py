from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from geoloc.core.semantics import CLASSES, SemanticClass, class_colours


def test_classes_and_colours_are_those_of_the_data_set(shared_data: Path) -> None:
    table = yaml.safe_load((shared_data / "map25d" / "color_map.yaml").read_text())
    assert {name: number for number, name in enumerate(CLASSES)} == table["labels"]
    np.testing.assert_array_equal(class_colours(), [table["color_map"][k] for k in range(25)])


def test_a_class_is_its_row() -> None:
    assert len(CLASSES) == 25
    assert SemanticClass.BUILDINGS == 4
    assert SemanticClass(19).label == "water"
    assert class_colours()[SemanticClass.BUILDINGS].tolist() == [255, 215, 0]
