"""Curves with error bars, and the report in one picture. Pictures of samples live in `pictures`; the numbers come from `evals`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from anystep.logs.pictures import INK, MARGIN, MUTED, PAPER, RULE, clean, font

# Okabe and Ito, "Color Universal Design" (2008): distinct for every kind of colour vision; black leads, two of our own come last
COLORS = ((32, 33, 36), (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (150, 130, 20))
COLORS = (*COLORS, (111, 66, 193), (140, 86, 75))
_FINE = 3  # drawn so many times larger, then averaged: Pillow's lines have hard edges
_DOTS = 24  # a series with more points is a line without dots

Point = tuple[float, float | None, float | None]  # x, y, standard error of y


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that lie in [low, high], at most `most` + 1."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if value and abs(value) >= 10_000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.6g}"


def _good(points: Sequence[Point]) -> list[tuple[float, float, float]]:
    return [(x, y, e or 0.0) for x, y, e in points if y is not None and math.isfinite(y)]


def _x_ticks(values: list[float], logx: bool) -> list[float]:
    distinct = sorted(set(values))
    if logx and len(distinct) <= 8:  # step counts: name those that were measured
        return distinct
    if logx:
        lowest, highest = math.floor(math.log10(distinct[0])), math.ceil(math.log10(distinct[-1]))
        return [10.0**n for n in range(lowest, highest + 1) if distinct[0] <= 10.0**n <= distinct[-1]]
    return _ticks(distinct[0], distinct[-1], 6) if distinct[0] < distinct[-1] else distinct


def curves(
    series: Mapping[str, Sequence[Point]],
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    ylim: tuple[float, float] | None = None,
    title: str = "",
    size: tuple[int, int] = (640, 400),
) -> Image.Image:
    """Lines through (x, y, standard error or None), one colour a series, bars of one standard error. A y of None or nan is left out."""
    lines = {clean(name): sorted(_good(points)) for name, points in series.items()}
    values = [point for points in lines.values() for point in points]
    if not values:
        raise ValueError("series: no finite point to draw")
    if logx and min(x for x, _, _ in values) <= 0:
        raise ValueError(f"series: a logarithmic x axis needs x > 0, got {min(x for x, _, _ in values)}")
    low, high = ylim or (min(y - e for _, y, e in values), max(y + e for _, y, e in values))
    if ylim is None:
        room = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
        low, high = low - room, high + room

    def warp(x):
        return math.log2(x) if logx else x

    xs = [x for x, _, _ in values]
    first, last = warp(min(xs)), warp(max(xs))
    first, last = (first - 1, last + 1) if first == last else (first - 0.03 * (last - first), last + 0.03 * (last - first))

    fine = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), PAPER)
    draw = ImageDraw.Draw(fine)
    face, small = font(13 * _FINE), font(12 * _FINE)
    y_ticks = _ticks(low, high, 6)
    legend = 0 if len(lines) < 2 else 44 * _FINE + max(small.getlength(name) for name in lines)
    left = 36 * _FINE + max(small.getlength(_number(tick)) for tick in y_ticks)
    right, top, bottom = fine.width - legend - 10 * _FINE, (44 if title else 10) * _FINE, fine.height - 48 * _FINE

    def across(x):
        return left + (warp(x) - first) / (last - first) * (right - left)

    def up(y):
        return bottom - (min(max(y, low), high) - low) / (high - low) * (bottom - top)

    for tick in y_ticks:
        draw.line((left, up(tick), right, up(tick)), RULE, _FINE)
        draw.text((left - 8 * _FINE, up(tick)), _number(tick), MUTED, small, anchor="rm")
    for tick in _x_ticks(xs, logx):
        draw.line((across(tick), bottom, across(tick), bottom + 4 * _FINE), MUTED, _FINE)
        draw.text((across(tick), bottom + 8 * _FINE), _number(tick), MUTED, small, anchor="mt")
    draw.line((left, bottom, right, bottom), MUTED, _FINE)
    draw.text(((left + right) / 2, fine.height - 6 * _FINE), clean(xlabel), INK, face, anchor="ms")
    if title:
        draw.text((0, 4 * _FINE), clean(title), INK, font(16 * _FINE), anchor="lt")
    if ylabel:
        word = Image.new("L", (math.ceil(face.getlength(clean(ylabel))) + 2, 20 * _FINE))
        ImageDraw.Draw(word).text((1, 10 * _FINE), clean(ylabel), 255, face, anchor="lm")
        word = word.rotate(90, expand=True)
        fine.paste(Image.new("RGB", word.size, INK), (0, round((top + bottom - word.height) / 2)), word)

    # the first series is the one that matters: drawn last, on top, and thicker
    for n, (name, points) in reversed(list(enumerate(lines.items()))):
        color, thick = COLORS[n % len(COLORS)], (3 if n == 0 and len(points) <= _DOTS else 2) * _FINE
        draw.line([(across(x), up(y)) for x, y, _ in points], color, thick, joint="curve")
        for x, y, error in points:
            if error:
                draw.line((across(x), up(y - error), across(x), up(y + error)), color, _FINE)
                for end in (up(y - error), up(y + error)):
                    draw.line((across(x) - 3 * _FINE, end, across(x) + 3 * _FINE, end), color, _FINE)
            if len(points) <= _DOTS:
                radius = (4 if n == 0 else 3) * _FINE
                draw.ellipse((across(x) - radius, up(y) - radius, across(x) + radius, up(y) + radius), color)
        if legend:
            y, x = top + (10 + 22 * n) * _FINE, right + 16 * _FINE
            draw.line((x, y, x + 18 * _FINE, y), color, thick)
            draw.text((x + 24 * _FINE, y), name, INK, small, anchor="lm")
    return fine.reduce(_FINE)


def score_names(report: Mapping[str, Any]) -> list[str]:
    """The scores of a report in the order of its columns: "overall", the tags, "joint"; standard errors are named `<score>_se`."""
    scores = next(iter(report["steps"].values()))
    return [name for name in scores if not name.endswith("_se")]


def _table(report: Mapping[str, Any], width: int) -> Image.Image:
    names = score_names(report)
    face, small, row_height, head = font(13), font(12), 28, 40
    page = Image.new("RGB", (width, head + row_height * len(report["steps"]) + 1), PAPER)
    draw = ImageDraw.Draw(page)
    first, wide = 44, 96  # the step count; "overall" carries its error
    each = (width - first - wide) / max(1, len(names) - 1)
    ends = [first + wide + each * n for n in range(len(names))]
    draw.text((0, head - 8), "steps", MUTED, small, anchor="ls")
    for name, end in zip(names, ends, strict=True):
        words = clean(name).replace("_", " ").split()
        for line, word in enumerate(reversed(words[:2])):
            draw.text((end, head - 8 - 14 * line), word, MUTED, small, anchor="rs")
    for row, (steps, scores) in enumerate(report["steps"].items()):
        y = head + row_height * row
        draw.line((0, y, width, y), RULE)
        draw.text((0, y + row_height / 2), str(steps), INK, face, anchor="lm")
        for name, end in zip(names, ends, strict=True):
            error = scores.get(f"{name}_se")
            text = f"{scores[name]:.2f}" + (f" ± {error:.2f}" if name == "overall" and error is not None else "")
            draw.text((end, y + row_height / 2), text, INK, face, anchor="rm")
    draw.line((0, page.height - 1, width, page.height - 1), RULE)
    return page


def report_picture(report: Mapping[str, Any], strip: Image.Image, title: str = "Any-step report", subtitle: str = "") -> Image.Image:
    """What a person sees last: the strip on the left, on the right accuracy against the number of steps and the scores as a table."""
    width, head, inner, least = 620, 84 if subtitle else 60, 32, 360
    series = {
        name.replace("_", " "): [(int(steps), scores[name], scores.get(f"{name}_se")) for steps, scores in report["steps"].items()]
        for name in score_names(report)
    }
    body = strip.crop((0, MARGIN - 8, strip.width - MARGIN + 1, strip.height - MARGIN + 1))  # the strip's own margin is ours now
    table = _table(report, width)
    height = max(body.height, least + inner + table.height)
    size = (width, min(640, height - inner - table.height))
    chart = curves(series, "steps", "share of prompts drawn right", logx=True, ylim=(0, 1), size=size)
    page = Image.new("RGB", (body.width + 2 * inner + width + MARGIN, head + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), clean(title), INK, font(24), anchor="lt")
    if subtitle:
        draw.text((MARGIN, MARGIN + 34), clean(subtitle), MUTED, font(14), anchor="lt")
    page.paste(body, (0, head))
    x = body.width + 2 * inner
    page.paste(chart, (x, head))
    page.paste(table, (x, head + chart.height + inner))
    return page
