"""The page of a comparison: its tables, plots and pictures in one HTML file, nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from geoloc.evaluation.report.html import page, plot
from geoloc.training.comparison.measurements import Measurement
from geoloc.training.comparison.model_facts import CurvePoint, ModelFacts
from geoloc.training.comparison.plots import bridge_colours, loss_curves, recall_dots
from geoloc.training.comparison.tables import Table, make_tables, notes

_STYLE = """<style>
body { max-width: 90rem } table { font-size: 13px } td, th { padding: .15rem .5rem }
td:nth-child(2), th:nth-child(2) { text-align: left } th { vertical-align: bottom }
tr.bridge td { font-weight: 600; padding-top: .6rem; text-align: left; border-bottom: 1px solid #bbb }
img.wide { max-width: 100%; display: block; margin: .5rem 0 }
</style>"""


@dataclass(frozen=True)
class ReportImage:
    """A picture of the page: under which heading (once for several in a row), with which words."""

    heading: str
    words: str
    picture: bytes


def render(
    rows: Sequence[Measurement],
    models: Sequence[ModelFacts],
    curves: Mapping[tuple[str, int], Sequence[CurvePoint]],
    pictures: Iterable[ReportImage],
) -> str:
    """The page as HTML; `curves` are the logs of (recipe, seed)."""
    *tests, recipes = make_tables(rows, models)
    sections = [_STYLE + "<h1>Recipes compared</h1>" + _summary(rows, models)]
    for test, name in zip(tests, dict.fromkeys(row.test for row in rows), strict=True):
        dots = recall_dots([row for row in rows if row.test == name], models)
        sections.append(_section(test) + plot(dots, f"R@1 on {name} by recipe and condition", "wide"))
    sections.append(_section(recipes) + plot(loss_curves(curves, models), "losses over steps", "wide"))
    heading = ""
    for shown in pictures:
        title = f"<h2>{html.escape(shown.heading)}</h2>" if shown.heading != heading else ""
        heading = shown.heading
        sections.append(
            f"{title}<p>{html.escape(shown.words)}</p>" + plot(shown.picture, shown.heading, "wide")
        )
    sections.append(
        "<h2>How to read it</h2>" + "".join(f"<p>{html.escape(note)}</p>" for note in notes(rows))
    )
    return page("geoloc compare", sections)


def _summary(rows: Sequence[Measurement], models: Sequence[ModelFacts]) -> str:
    budgets = " or ".join(sorted({f"{model.steps:,} steps of {model.batch_size} pairs" for model in models}))
    recipes = len({model.recipe for model in models})
    return (
        f"<p>{recipes} recipes, {len(models)} trained models, each with {html.escape(budgets)}; {len(rows)} "
        "measurements. Recipes are grouped by how they bridge the ground view and the view from above. Bars are means "
        "over seeds, dots single seeds, whiskers 95 % intervals for the number of photos.</p>"
    )


def _section(table: Table) -> str:
    return f"<h2>{html.escape(table.title)}</h2>{_grouped_table(table)}"


def _grouped_table(table: Table) -> str:
    """A table with a line of its own above each group."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
    body, last, colours = [], "", bridge_colours()
    for line in table.lines:
        if line.bridge != last:
            last = line.bridge
            mark = f'<span style="color:{colours[last]}">&#9632;</span>'
            body.append(
                f'<tr class="bridge"><td colspan="{len(table.head)}">{mark} {html.escape(last)}</td></tr>'
            )
        body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line.cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
