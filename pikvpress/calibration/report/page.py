"""The calibration report: one HTML page and one figure."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pikvpress.calibration.report.figure import draw
from pikvpress.calibration.report.found import Calibration

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; border-radius: 6px; }
"""


def check_folder(folder: str | Path) -> None:
    """Raise an ``OSError`` if no report can be written there, before it is computed."""
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"the report cannot be written to {folder}: {there} is not a folder; choose another")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"the report cannot be written to {folder}: {there} is not writable; choose another")


def write_report(calibration: Calibration, folder: str | Path) -> tuple[Path, Path]:
    """Write ``calibration.html``, self-contained, and ``calibration.png``.

    Returns
    -------
    (Path, Path)
        The page and the figure.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    draw(calibration).savefig(picture, format="png", dpi=150)
    page, image = folder / "calibration.html", folder / "calibration.png"
    image.write_bytes(picture.getvalue())
    page.write_text(_page(calibration, base64.b64encode(picture.getvalue()).decode()), encoding="utf-8")
    return page, image


def _page(calibration: Calibration, picture: str) -> str:
    about, ratios, findings = calibration.gates.about, calibration.gates.ratios, calibration.findings
    rows = [
        [f"{ratio:.1%} removed", f"{regret:.2f}", name, f"{times:.2f}"]
        for ratio, regret, (name, times) in zip(ratios, findings.regret(), findings.best_alone(), strict=True)
    ]
    facts = [[key, str(value)] for key, value in about.items() if key != "figures"]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Calibration report</title><style>{_STYLE}</style>
<h1>Calibration report</h1>
<p>Gates for the model {html.escape(str(calibration.gates.model.get("model_type")))}, in
<code>{html.escape(calibration.path.name)}</code>. All numbers are from contexts that nothing was fitted on.</p>
<img src="data:image/png;base64,{picture}"
 alt="Maps of the winning experts, the fitted budgets and the regret by layer and head; expert shares">
<h2>Equal budgets, as predicted from each head's loss</h2>
<p>Regret is the router's divergence relative to that of an oracle that chooses the best single expert for every head
and input; it can be below 1, since the router blends.</p>
{_table(["", "regret", "best expert alone", "its divergence (router = 1)"], rows)}
<h2>What was tried</h2>
<p>By share removed.</p>
{_tried(calibration)}
<h2>How</h2>
{_table(["", ""], facts)}
</html>
"""


def _tried(calibration: Calibration) -> str:
    heads = [f"{ratio:.1%}" for ratio in calibration.gates.ratios]
    tables: dict[str, list[list[str]]] = {"divergence": [], "predicted_divergence": []}
    figures = dict(calibration.gates.about["figures"])
    saliency = figures.pop("saliency", None)
    for name, found in figures.items():
        router, _, budgets = name.partition("+")
        for measure, rows in tables.items():
            for stage, values in found.get(measure, {}).items():
                mark = " (kept)" if stage == found["kept"] else ""
                label = f"{router}, {budgets or 'equal'} budgets: {stage}{mark}"
                rows.append([label, *(f"{value:.3g}" for value in values)])
    text = (
        f"<p>KL divergence of the model's predictions, nats per token:</p>{_table(['', *heads], tables['divergence'])}"
    )
    if tables["predicted_divergence"]:
        others = _table(["", *heads], tables["predicted_divergence"])
        text += f"<p>Other routers, predicted from each head's loss, nats summed over a future's tokens:</p>{others}"
    return text if saliency is None else text + _saliency(saliency)


def _saliency(found: dict[str, Any]) -> str:
    rows = [
        [f"saliency of {stage}{' (kept)' * (stage in found['kept'])}", *(f"{value:.3g}" for value in values)]
        for stage, values in found["predicted_divergence"].items()
    ]
    heads = ["", *(f"{ratio:.1%}" for ratio in found["ratios"])]
    return f"<p>The saliency expert with equal budgets, predicted likewise:</p>{_table(heads, rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(heads, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
