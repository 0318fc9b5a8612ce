from __future__ import annotations

import base64
import io
import re

from PIL import Image

from geoloc.training.comparison.measurements import Measurement
from geoloc.training.comparison.model_facts import CurvePoint, ModelFacts, bridge_titles
from geoloc.training.comparison.report import ReportImage, render
from geoloc.training.heading_and_fov import CONDITIONS

NAMES = ("a<b", "c", "d", "e", "f")


def page() -> str:
    rows = [
        Measurement(
            recipe=name,
            seed=seed,
            test=test,
            condition=condition.name,
            photos=50,
            tiles=60,
            recall_1=40.0 + 10 * seed,
            recall_5=60,
            recall_10=70,
            heading_error_deg=None,
            within_10_deg=None,
        )
        for name in NAMES
        for seed in (0, 1)
        for test, conditions in (("whole", CONDITIONS), ("known", CONDITIONS[:1]))
        for condition in conditions
    ]
    models = [
        ModelFacts(
            recipe=name,
            seed=seed,
            model_id="x",
            bridge=bridge,
            what=f"{bridge}, GeM",
            parameters=10,
            embedding_dim=8,
            steps=5,
            batch_size=4,
            pairs_per_s=None,
            step_core_s=None,
        )
        for name, bridge in zip(NAMES, bridge_titles(), strict=True)
        for seed in (0, 1)
    ]
    curves = {("c", 0): [CurvePoint(1, 3.0, 10.0), CurvePoint(5, 2.0, 50.0)]}
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    jpeg = io.BytesIO()
    Image.new("RGB", (4, 4)).save(jpeg, "JPEG")
    pictures = [ReportImage("Seen", f"place {n}", data.getvalue()) for n, data in enumerate((png, jpeg))]
    return render(rows, models, curves, pictures)


def test_the_page_stands_alone_with_every_table_and_picture() -> None:
    text = page()
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text.count("<table>") == 3
    assert text.count('<tr class="bridge">') == 3 * len(bridge_titles())
    assert "a&lt;b" in text
    assert "a<b" not in text
    assert text.count("<h2>Seen</h2>") == 1
    assert text.index("place 0") < text.index("place 1")
    pictures = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', text)
    kinds = [Image.open(io.BytesIO(base64.b64decode(data))).format for _, data in pictures]
    assert kinds == [kind.upper() for kind, _ in pictures] == ["PNG", "PNG", "PNG", "PNG", "JPEG"]
