"""The figures of a shard set as one self-contained HTML page."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from raypose.data.stats import IMAGE_SIDE_OCTAVES, PLACE_MARGIN, SIZE_BINS_PER_OCTAVE, Stats
from raypose.pages import render_page
from raypose.pages.charts import Bars, bar_chart
from raypose.pages.distributions import Shares, heat_map, histogram, place_map, shares_chart

_MAX_COLUMNS = 40
"""Numbers of people per image that get a column each; beyond, several share one."""

Chart = tuple[str, Markup]


def render_stats(stats: Stats, title: str) -> str:
    """The page as text."""
    return render_page(
        "raypose.data",
        "stats.html.j2",
        eyebrow="raypose data stats",
        title=title,
        facts={
            "Shards": f"{stats.shards:,}",
            "Size": f"{stats.size_bytes / 2**20:,.1f} MiB",
            "Median box": f"{stats.box_size_px[0.5]:,.0f} px" if stats.box_size_px else "–",
        },
        tiles=_tiles(stats),
        charts=_charts(stats),
        visibility=_visibility(stats),
        places=_places(stats),
        keypoints=stats.keypoints,
        quantiles=[
            (name, [f"{values[share]:,.0f}" for share in sorted(values)])
            for name, values in (
                ("box size", stats.box_size_px),
                ("image width", stats.image_width_px),
                ("image height", stats.image_height_px),
            )
            if values
        ],
        shares=[f"{share:.0%}" for share in stats.image_width_px],
    )


def _tiles(stats: Stats) -> list[tuple[str, str, str]]:
    labelled = sum(item.hidden + item.visible for item in stats.keypoints)
    possible = labelled + sum(item.unlabelled for item in stats.keypoints)
    return [
        ("Images", f"{stats.images:,}", f"{stats.images_without_people:,} without people"),
        ("Labelled people", f"{stats.labelled_people:,}", f"of {stats.annotations:,} annotations"),
        ("Ignored", f"{stats.ignored:,}", f"{stats.crowds:,} crowds, {stats.empty_people:,} without keypoints"),
        ("Keypoints", f"{labelled:,}", f"{labelled / max(possible, 1):.0%} of all are labelled"),
    ]


def _charts(stats: Stats) -> list[Chart]:
    charts = []
    if stats.people_per_image:
        edges, counts = _whole_columns(stats.people_per_image)
        charts.append(
            ("People per image", histogram(edges, counts, x_label="annotations", y_label="images", octaves=False))
        )
    if stats.box_sizes.counts:
        boxes = stats.box_sizes
        chart = histogram(boxes.edges, boxes.counts, x_label="box size, px", y_label="labelled people", octaves=True)
        charts.append(("Box sizes", chart))
    if stats.images:
        charts.append(("Image sizes", _image_sizes(stats)))
    bars = Bars("people", list(stats.people_per_class.values()))
    return [
        *charts,
        ("Classes", bar_chart(list(stats.people_per_class), [bars], x_label="labelled people", decimals=0)),
    ]


def _whole_columns(counts: dict[int, int]) -> tuple[list[float], list[int]]:
    """Columns of equal width over whole numbers from 0, at most _MAX_COLUMNS."""
    width = max(counts) // _MAX_COLUMNS + 1
    columns = [0] * (max(counts) // width + 1)
    for number, count in counts.items():
        columns[number // width] += count
    return [index * width - 0.5 for index in range(len(columns) + 1)], columns


def _image_sizes(stats: Stats) -> Markup:
    """The octaves that hold images, and no others."""
    used = np.flatnonzero(stats.image_sizes_HW.any(axis=0) | stats.image_sizes_HW.any(axis=1))
    first = used[0] // SIZE_BINS_PER_OCTAVE * SIZE_BINS_PER_OCTAVE
    last = (used[-1] // SIZE_BINS_PER_OCTAVE + 1) * SIZE_BINS_PER_OCTAVE
    sides_px = [
        2.0 ** (IMAGE_SIDE_OCTAVES[0] + index / SIZE_BINS_PER_OCTAVE) for index in range(int(first), int(last) + 1)
    ]
    counts_HW = stats.image_sizes_HW[first:last, first:last]
    return heat_map(counts_HW, sides_px, x_label="width, px", y_label="height, px")


def _visibility(stats: Stats) -> Markup:
    totals = [max(item.visible + item.hidden + item.unlabelled, 1) for item in stats.keypoints]

    def share(name: str, tone: int) -> Shares:
        counted = [getattr(item, name) for item in stats.keypoints]
        return Shares(name, [count / total for count, total in zip(counted, totals, strict=True)], tone)

    parts = [share("visible", 1), share("hidden", 2), share("unlabelled", 0)]
    return shares_chart([item.name for item in stats.keypoints], parts, x_label="share of people who are no crowd")


def _places(stats: Stats) -> list[Chart]:
    return [
        (item.name.replace("_", " "), place_map(counts_HW, PLACE_MARGIN, f"where {item.name} lies in the box"))
        for item, counts_HW in zip(stats.keypoints, stats.places_KHW, strict=True)
    ]
