"""Pictures of how cost grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

_COLOURS = 48  # all that curves need


@dataclass(slots=True)
class Panel:
    """Curves over one axis.

    Attributes:
        below: What the horizontal axis counts.
        beside: What the vertical axis measures.
        curves: Points by name.
        log: Whether the axes are logarithmic.
    """

    below: str
    beside: str
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    log: bool = True


def draw(path: Path, panels: list[Panel]) -> None:
    """Draw panels side by side into a small PNG."""
    canvas = Figure(figsize=(5.5 * len(panels), 4.5), layout="constrained")
    for axes, panel in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (name, points), marker in zip(panel.curves.items(), cycle("os^vDx*"), strict=False):
            axes.plot(*zip(*points, strict=True), marker=marker if panel.log else None, label=name)
        if panel.log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(panel.below)
        axes.set_ylabel(panel.beside)
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=100)
    shrink(path)


def shrink(picture: Path) -> None:
    """Take from a picture the colours that it does not need."""
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(_COLOURS)
    small.save(picture, optimize=True)
