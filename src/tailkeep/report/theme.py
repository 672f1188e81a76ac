"""The colours of a report, once for light and once for dark; the light ones also draw the PNG and SVG files.

A figure is drawn with the light colours; inlined in the page, each becomes the CSS variable of its name, and so
follows the reader's colour scheme. Every light colour is therefore unique.
"""

from __future__ import annotations

BASE = {
    "ink": ("#1c2330", "#e8eaee"),
    "soft": ("#596273", "#a5aebb"),
    "axis": ("#c3c9d3", "#4a5260"),
    "grid": ("#e8ebf0", "#2c323c"),
    "paper": ("#fffffe", "#171b22"),
    "limit": ("#a8570a", "#f0a860"),
    "zone": ("#eef4ef", "#1d2823"),
    "on-weak": ("#161c27", "#eef0f3"),
    "on-strong": ("#fefeff", "#0b0e13"),
    "blank": ("#f1f2f5", "#20252e"),
}
TECHNIQUES = (
    ("#2262c6", "#78aefc"),
    ("#cc5c00", "#ff9d4d"),
    ("#7c3fb8", "#c79bf7"),
    ("#08857a", "#4fd0c2"),
    ("#b52a72", "#f58abf"),
    ("#84690c", "#dcbf58"),
    ("#41752b", "#96cf7b"),
    ("#4d5b93", "#a9b5ea"),
)
CONTROLS = (("#7d8592", "#8d96a4"), ("#8a7f76", "#a3968b"), ("#748a83", "#8ba39b"))
DENSE = ("#2b3342", "#dde1e8")
LOSS_TO_GAIN = (
    ("#8e1f14", "#ff9c86"),
    ("#b83a2a", "#e67a64"),
    ("#de8169", "#a94f40"),
    ("#efb09c", "#74372f"),
    ("#f8ded6", "#432a28"),
    ("#f4f5f7", "#252a33"),
    ("#dae8f5", "#243447"),
    ("#a9cbe9", "#2d4d70"),
    ("#74a9d9", "#3c6ea3"),
    ("#2d71b3", "#6aa8e0"),
    ("#154d87", "#97c7f5"),
)
LOW_TO_HIGH = (
    ("#f7f3e8", "#262a2e"),
    ("#e9efe0", "#27332f"),
    ("#d5e8d9", "#273d38"),
    ("#bbdfd1", "#284841"),
    ("#9cd2c8", "#2a564d"),
    ("#6fb8b3", "#30685e"),
    ("#26807e", "#52a394"),
    ("#1a6d6b", "#68bfae"),
    ("#145a56", "#80d5c3"),
    ("#0d4542", "#9beedb"),
)
STRONG_LOSS_TO_GAIN = (True, True, False, False, False, False, False, False, False, True, True)
STRONG_LOW_TO_HIGH = (False, False, False, False, False, False, True, True, True, True)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
VERDICTS = {
    # label: (style name, sign that reads without colour, light, dark)
    "not robust": ("lost", "▼", "#a62b1f", "#ff917f"),
    "robust": ("kept", "✓", "#1e6f3c", "#77d196"),
    "more robust": ("gained", "▲", "#1c5aa6", "#82b5fa"),
    "cannot tell": ("unsure", "?", "#6a5a10", "#dcc668"),
    "no claim": ("silent", "○", "#525c6c", "#aab3c0"),
    "not available": ("absent", "–", "#545e6e", "#abb4c1"),
}


def variables() -> dict[str, tuple[str, str]]:
    """Return every named colour as (light, dark)."""
    named = dict(BASE)
    named["dense"] = DENSE
    for prefix, colours in (
        ("tech", TECHNIQUES),
        ("control", CONTROLS),
        ("change", LOSS_TO_GAIN),
        ("recall", LOW_TO_HIGH),
    ):
        named.update({f"{prefix}-{i}": pair for i, pair in enumerate(colours)})
    named.update({f"verdict-{style}": (light, dark) for style, _, light, dark in VERDICTS.values()})
    return named


def colour(name: str) -> str:
    """Return a named colour of the light scheme."""
    return variables()[name][0]


def css() -> str:
    """Return the style sheet's head: the variables of both schemes. Paper is always light."""
    named = variables()
    light = "".join(f"--{name}:{pair[0]};" for name, pair in named.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in named.items())
    return (
        f":root{{color-scheme:light dark;{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )


def method_colours(methods: list[str], roles: dict[str, str]) -> dict[str, str]:
    """Give each method the name of its colour: techniques differ, dense is dark, controls are grey."""
    names: dict[str, str] = {}
    seen = {"technique": 0, "control": 0}
    for method in methods:
        role = roles[method]
        if role == "dense":
            names[method] = "dense"
            continue
        prefix, many = ("tech", len(TECHNIQUES)) if role == "technique" else ("control", len(CONTROLS))
        names[method] = f"{prefix}-{seen[role] % many}"
        seen[role] += 1
    return names
