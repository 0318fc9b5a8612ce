"""The registry of protocols, and its page: every protocol is described, and published tables are not impossible."""

import re
from pathlib import Path

import pytest

from geoloc.core.errors import ConfigError
from geoloc.evaluation.protocol.protocols import DEFAULT, PROTOCOLS, find_protocol
from geoloc.evaluation.protocol.sanity_checks import check_precision
from geoloc.evaluation.ranking.metrics import TOP_PERCENT_RULES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "protocols.md").read_text()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_found_by_name_and_version_and_described(name):
    protocol = find_protocol(name)
    assert find_protocol(protocol.id) is protocol
    short = protocol.id.removeprefix("university1652")  # the table writes a family's name once
    assert f"`{protocol.id}`" in PAGE or f"`{short}`" in PAGE
    assert len(protocol.definition) > 80


@pytest.mark.parametrize("rule", TOP_PERCENT_RULES)
def test_every_rule_of_one_percent_is_described(rule):
    assert f"| {rule} |" in PAGE


def test_names_of_the_data_sets_are_there():
    wanted = {
        "cvusa", "cvact-val", "cvact-test-5m", "cvact-test-exact", "vigor-same-area", "vigor-cross-area",
        "university1652-drone-to-satellite", "university1652-satellite-to-drone",
        "university1652-ground-to-satellite", "map25d-single-image",
    }  # fmt: skip
    assert wanted <= PROTOCOLS.keys()
    assert DEFAULT in PROTOCOLS


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match="There is no protocol 'vigor-same'; did you mean 'vigor-same-area'"
    ):
        find_protocol("vigor-same")


def test_no_published_precision_is_below_its_recall():
    """Drone to satellite has one right answer a query: a row with AP below R@1 would be a misprint of ours."""
    section = PAGE[PAGE.index("University-1652, R@1 / AP:") : PAGE.index("Ground → satellite")]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    figures = [pair for cell in rows for pair in re.findall(r"(\d+\.\d+) / (\d+\.\d+)", cell)]
    assert len(figures) >= 12
    for recall, precision in figures:
        check_precision(float(precision), float(recall), "a published row")
