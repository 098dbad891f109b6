"""The figure of the calibration report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pikvpress.calibration.report.found import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(calibration: Calibration) -> Figure:
    """Plot winning experts, expert shares, regret, budgets and the contribution of head features."""
    from matplotlib.figure import Figure  # imported late: plotting is optional, and the import takes a second

    findings = calibration.findings
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    grid = figure.subplot_mosaic(
        [["winners", "budgets", "regret_map", "shares"], ["winners", "budgets", "regret_map", "features"]],
        width_ratios=[1.2, 1, 1, 1.6],
    )
    _winners(grid["winners"], calibration)
    middle, removed = _middle(calibration)
    shares = findings.budgets[middle]
    _heat_map(grid["budgets"], shares.tolist(), f"share kept, fitted budgets,\n{removed} removed", "viridis")
    regret = (findings.routed[middle] / findings.oracle[middle].clamp_min(1e-9)).clamp(0, 4)
    _heat_map(
        grid["regret_map"], regret.tolist(), f"regret against the oracle,\nequal budgets, {removed} (1 = none)", "magma"
    )
    names = list(findings.expert_shares())
    _bars(grid["shares"], names, list(findings.expert_shares().values()), "mean gate weight")
    _bars(
        grid["features"],
        list(findings.without) or ["none used"],
        [100 * (value - 1) for value in findings.without.values()] or [0.0],
        "change of the predicted divergence\nwithout a head feature, %",
    )
    figure.suptitle(f"Gates for {calibration.gates.model.get('model_type', 'the model')}: {calibration.path.name}")
    return figure


def _middle(calibration: Calibration) -> tuple[int, str]:
    """Return the index of the ratio that the maps show, and the ratio as text."""
    ratios = calibration.gates.ratios
    return len(ratios) // 2, f"{100 * ratios[len(ratios) // 2]:.3g} %"


def _winners(axes: Axes, calibration: Calibration) -> None:
    from matplotlib.colors import ListedColormap

    findings = calibration.findings
    count = len(findings.experts)
    weights = findings.weights[_middle(calibration)[0]]
    winners = weights.nan_to_num(-1).argmax(dim=-1).float()
    winners[weights.isnan().any(dim=-1)] = float("nan")
    colours = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#332288", "#882255"]
    palette = ListedColormap([colours[i % len(colours)] for i in range(count)])
    image = axes.imshow(winners.tolist(), aspect="auto", cmap=palette, vmin=-0.5, vmax=count - 0.5)
    axes.set_title("expert with the largest weight", fontsize=10)
    axes.set_xlabel("KV head")
    axes.set_ylabel("layer")
    bar = axes.figure.colorbar(image, ax=axes, ticks=range(count), location="left")
    bar.ax.set_yticklabels(findings.experts, fontsize=8)


def _heat_map(axes: Axes, values: Sequence[Sequence[float]], title: str, palette: str) -> None:
    image = axes.imshow(values, aspect="auto", cmap=palette)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("KV head")
    axes.figure.colorbar(image, ax=axes)


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], title: str) -> None:
    axes.barh(range(len(names)), values, color="#4477aa")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(title, fontsize=10)
