"""Charts of a page, as figures of Plotly; its script sets the colours of text and grid, which follow the theme."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fastia.engine.result import Evaluation
from fastia.metrics.registry import SIZE_BOUNDS, SIZE_NAMES

GROUPS = ("all", *SIZE_NAMES)  # what a chart can be limited to, by the buttons of the page
MOST_CLASSES = 60  # of a confusion matrix; more cannot be distinguished
PLAIN, PENALIZED = "#6baed6", "#d9730d"
SIZE_COLOURS = {"small": "#d9730d", "medium": "#2a9d8f", "large": "#7b6fd0"}
_BASE = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 8, "r": 8, "t": 36, "b": 48},
    "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    "font": {"size": 13},
}


def scores_chart(result: Evaluation) -> go.Figure:
    """IA-mIoU of all sizes and of each, penalized beside plain, and a line for mIoU."""
    names = ["all sizes", *SIZE_NAMES]
    figure = go.Figure()
    for title, key, colour in (("IA-mIoU", "ia_miou", PLAIN), ("penalized IA-mIoU", "ia_miou_penalized", PENALIZED)):
        values = [result.scores[key], *(result.scores[f"{key}_{size}"] for size in SIZE_NAMES)]
        percents = [None if math.isnan(value) else 100 * value for value in values]
        texts = ["none" if value is None else f"{value:.1f}" for value in percents]
        figure.add_bar(x=names, y=percents, name=title, marker_color=colour, text=texts, hovertemplate="%{y:.2f} %")
    figure.update_traces(textposition="outside", textangle=0, cliponaxis=False)
    miou = 100 * result.scores["miou"]
    if not math.isnan(miou):
        figure.add_scatter(x=names, y=[miou] * len(names), mode="lines", name=f"mIoU {miou:.1f}", hoverinfo="skip")
        figure.data[-1].line = {"dash": "dash", "color": "#888888"}
    figure.update_layout(_BASE, height=340, yaxis={"title": "%", "range": [0, 109]}, barmode="group")
    return figure


def classes_chart(result: Evaluation) -> go.Figure:
    """IA-IoU of each class that has instances or unmatched components: a wide bar, in it a narrow one, penalized."""
    rows = {name: row for name, row in result.per_class.items() if row["instances"] + row["unmatched"]}
    figure = go.Figure()
    for group in GROUPS:
        end = "" if group == "all" else f"_{group}"
        counts = [[row[f"instances{end}"], row[f"unmatched{end}"]] for row in rows.values()]
        for title, key, colour, width in (
            ("IA-IoU", "ia_iou", PLAIN, 0.8),
            ("penalized IA-IoU", "ia_iou_penalized", PENALIZED, 0.36),
        ):
            values = [row[f"{key}{end}"] for row in rows.values()]
            figure.add_bar(
                orientation="h",
                y=_labels(rows),
                x=[None if math.isnan(value) else 100 * value for value in values],
                name=title,
                marker_color=colour,
                width=width,
                customdata=counts,
                hovertemplate="%{y}: %{x:.1f} %, %{customdata[0]} instances + %{customdata[1]} unmatched",
                meta=group,
                visible=group == "all",
            )
    figure.update_layout(
        _BASE,
        height=110 + 24 * len(rows),
        barmode="overlay",
        xaxis={"title": "IA-IoU in %", "range": [0, 101]},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category", "dtick": 1},
    )
    return figure


def area_chart() -> go.Figure:
    """IoU against area, one trace per size; the page's script fills in the instances that its filters leave."""
    figure = go.Figure()
    for size, colour in SIZE_COLOURS.items():
        figure.add_trace(
            go.Scattergl(
                x=[],
                y=[],
                mode="markers",
                name=size,
                meta=size,
                marker={"color": colour, "size": 7, "opacity": 0.65},
                hovertemplate="%{text}<br>area %{x}, IoU %{y:.3f}<extra></extra>",
            )
        )
    for bound in SIZE_BOUNDS:
        figure.add_vline(x=bound, line_dash="dot", line_color="#888", layer="below")
    figure.update_layout(
        _BASE,
        height=460,
        xaxis={"type": "log", "title": "area of the instance in pixels", "exponentformat": "none", "dtick": 1},
        yaxis={"title": "IA-IoU", "range": [-0.03, 1.03]},
        hovermode="closest",
    )
    return figure


def confusion_chart(confusion: NDArray[np.int64], classes: Sequence[str]) -> go.Figure:
    """Shares of the pixels of instances by predicted class, none where 0; confusion ``[3, C, C + 1]`` by size."""
    columns = [*classes, "no class"]
    total = confusion.sum(0)
    rows, predicted = (_most(pixels) for pixels in (total.sum(1), total.sum(0)))
    figure = go.Figure()
    for group, pixels in zip(GROUPS, (total, *confusion), strict=True):
        sums = pixels.sum(1, keepdims=True)
        share = np.divide(pixels, sums, out=np.full(pixels.shape, np.nan), where=pixels > 0)
        figure.add_heatmap(
            z=np.round(100 * share[np.ix_(rows, predicted)], 2),
            customdata=pixels[np.ix_(rows, predicted)],
            x=_labels([columns[i] for i in predicted]),
            y=_labels([classes[i] for i in rows]),
            zmin=0,
            zmax=100,
            colorscale="Viridis",
            colorbar={"title": {"text": "%"}, "thickness": 12},
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate="%{y} predicted as %{x}: %{z:.1f} %, %{customdata} pixels<extra></extra>",
            meta=group,
            visible=group == "all",
        )
    figure.update_layout(
        _BASE,
        height=180 + 22 * len(rows),
        xaxis={"title": "predicted", "automargin": True, "tickangle": -60, "type": "category", "dtick": 1},
        yaxis={"title": "ground truth", "autorange": "reversed", "automargin": True, "type": "category", "dtick": 1},
    )
    return figure


def plain_json(figure: go.Figure) -> dict[str, Any]:
    """What Plotly's script takes; its default template, which is long, left out."""
    content: dict[str, Any] = figure.to_plotly_json()
    content["layout"].pop("template", None)
    return content


def _most(pixels: NDArray[np.int64]) -> NDArray[np.intp]:
    """The classes with most pixels, in the order of their ids."""
    order = np.argsort(-pixels, kind="stable")[:MOST_CLASSES]
    return np.sort(order[pixels[order] > 0])


def _labels(names: Any) -> list[str]:
    """Names as Plotly shows them; it takes texts for HTML."""
    return [html.escape(name) for name in names]
