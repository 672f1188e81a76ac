"""What every page shares: figures drawn once for page and files, the policy, the template, and the folder beside it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tailkeep.errors import BadInput
from tailkeep.files import write_atomic
from tailkeep.report import canvas, origin, svg

OURS = re.compile(
    r"(excess-gap|accuracy|groups|size|recall-change|recall|verdicts|gaps|seed_gaps|tail|failures|drop|gap|excess|controls"
    r"|pareto|deployment|frontier|latency|repairs|repairs_where|repairs_summary"
    r"|change|calibration|seeds|gate|comparison|classes|summary|flips)"
    r"(-[a-z0-9-]+)?\.(png|svg|csv|md|tex)"
)
"""The files of a report of either kind, which a second report to the same place may remove."""


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn: its SVG as a file, and both layouts as they stand in the page."""

    figure: canvas.Figure
    file: str
    wide: str
    narrow: str


def draw(figures: Iterable[canvas.Figure | None]) -> list[Drawn]:
    """Draw the figures that are there."""
    drawn = []
    for i, figure in enumerate(each for each in figures if each is not None):
        wide = svg.numbered(canvas.to_svg(figure.wide))
        narrow = svg.numbered(canvas.to_svg(figure.narrow))
        drawn.append(Drawn(figure, svg.standalone(wide), svg.inline(wide, f"w{i}"), svg.inline(narrow, f"n{i}")))
    return drawn


def page_path(out: Path) -> Path:
    """Return where the page goes. Raises BadInput where that is a folder."""
    out = Path(out)
    if out.is_dir():
        raise BadInput(f"{out}: is a folder; name the report's file, for example {out / 'report.html'}")
    return out


def publish(
    out: Path, name: str, line: str, drawn: Sequence[Drawn], tables: Mapping[str, str], html: Callable[[str], str]
) -> Path:
    """Write the figures and tables to the folder ``<stem>_files`` beside ``out``, then the page; return ``out``.

    ``name`` and ``line`` (where it all comes from) are stamped into each figure's file; ``tables`` are texts by path
    within the folder; ``html`` makes the page from the folder's name. Every file appears whole or not at all.
    """
    folder = out.with_name(f"{out.stem}_files")
    named = {d.figure.name: f"{name}: {d.figure.title}" for d in drawn}
    written = {
        f"figures/{d.figure.name}.svg": origin.stamped_svg(d.file, named[d.figure.name], line) for d in drawn
    } | dict(tables)
    for path, content in written.items():
        write_atomic(folder / path, content)
    for each in drawn:
        image = origin.stamped_png(canvas.to_png(each.file), named[each.figure.name], line)
        write_atomic(folder / f"figures/{each.figure.name}.png", image)
        written[f"figures/{each.figure.name}.png"] = ""
    _forget(folder, set(written))
    write_atomic(out, html(folder.name))
    return out


def _forget(folder: Path, written: set[str]) -> None:
    """Remove what an earlier report wrote here and this one did not; nothing else is touched."""
    for part in ("figures", "tables"):
        for path in sorted((folder / part).glob("*")):
            if OURS.fullmatch(path.name) and f"{part}/{path.name}" not in written and path.is_file():
                path.unlink()


def rendered(page: str, style: str, script: str, drawn: Sequence[Drawn], folder: str, **values: Any) -> str:
    """Return the HTML of the template ``page`` with this style, script and these figures; all text is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    figures = [
        {
            "name": d.figure.name,
            "title": d.figure.title,
            "alt": d.figure.alt,
            "caption": d.figure.caption,
            "data": d.figure.data,
            "wide": Markup(d.wide),
            "narrow": Markup(d.narrow),
        }
        for d in drawn
    ]
    return environment.get_template(page).render(
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        figures=figures,
        folder=quote(folder),
        **values,
    )


def policy(style: str, script: str) -> str:
    """Return the content security policy: this style, this script, and nothing from anywhere."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")

    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def template(name: str) -> str:
    """Return the text of a file of ``templates/``."""
    return resources.files("tailkeep.report").joinpath("templates", name).read_text(encoding="utf-8")
