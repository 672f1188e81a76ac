"""Make a drawn SVG fit to stand inside the page: only known elements, colours as variables, tips as titles.

A figure's text comes from names that strangers chose. The drawing is parsed, not searched: what is not a known
element or attribute is dropped, and the serialiser escapes all text.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tailkeep.report.theme import variables

SVG = "http://www.w3.org/2000/svg"
ELEMENTS = {"svg", "g", "path", "rect", "line", "text", "tspan", "circle", "defs", "clipPath"}
ATTRIBUTES = {
    *("d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy", "width", "height", "viewBox"),
    *("transform", "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity"),
    *("stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "text-anchor", "dominant-baseline", "display"),
    *("font-size", "font-weight", "font-style", "clip-path", "id"),
}
INHERITED = (
    *("fill", "stroke", "stroke-width", "font-size", "font-weight", "text-anchor", "stroke-linecap", "fill-opacity"),
    *("stroke-opacity", "stroke-miterlimit", "stroke-dasharray"),
)
TIP = re.compile(r"^(\d{1,4})\|(.*)$", re.DOTALL)
LINK = re.compile(r"^url\(#([\w-]+)\)$")
LONG = re.compile(r"(\d+\.\d{2})\d+")


def inline(drawing: str, prefix: str, paint: bool = True) -> str:
    """Return the SVG text for the page. ``prefix`` keeps its ids apart from those of other figures.

    ``paint`` turns the colours into the page's variables; without it they stay as they are.
    """
    names = {light: name for name, (light, _) in variables().items()} if paint else {}
    root = ElementTree.fromstring(drawing)
    _clean(root, prefix, names)
    _hoist(root)
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    ElementTree.register_namespace("", SVG)
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace(f' xmlns="{SVG}"', "", 1)


def _clean(element: ElementTree.Element, prefix: str, names: dict[str, str]) -> None:
    label = element.get("aria-label", "")
    for name, value in list(element.attrib.items()):
        del element.attrib[name]
        if name in ATTRIBUTES and not (name.endswith("opacity") and value == "1"):
            element.set(name, _value(name, value, prefix, names))
    found = TIP.match(label)
    if found:
        element.set("data-m", found.group(1))
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = found.group(2)
        element.insert(0, title)
    for child in list(element):
        tag = child.tag.removeprefix(f"{{{SVG}}}") if isinstance(child.tag, str) else ""
        if tag == "title":
            continue
        # Vega draws empty frames before and after every group.
        empty = tag == "path" and child.get("d", "") in {"", "M0,0h0v0h0Z"}
        if tag not in ELEMENTS or empty:
            element.remove(child)
        else:
            _clean(child, prefix, names)


def _value(name: str, value: str, prefix: str, names: dict[str, str]) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in {"d", "transform"}:
        return LONG.sub(r"\1", value)
    link = LINK.match(value)
    if link:
        return f"url(#{prefix}-{link.group(1)})"
    if "url(" in value:
        return "none"
    variable = names.get(value.lower()) if name in {"fill", "stroke"} else None
    return f"var(--{variable})" if variable else value


def numbered(drawing: str) -> str:
    """Count clip paths from 0: the renderer goes on counting from one drawing to the next."""
    order: dict[str, str] = {}

    def renamed(found: re.Match[str]) -> str:
        return f"{found.group(1)}{order.setdefault(found.group(2), str(len(order)))}{found.group(3)}"

    return re.sub(r'((?: id="|clip-path="url\(#)clip)(\d+)(\)?")', renamed, drawing)


def standalone(drawing: str) -> str:
    """Return the SVG as a file of its own: a mark's label without the number that only the page needs."""
    return re.sub(r'aria-label="\d{1,4}\|', 'aria-label="', drawing)


def _hoist(element: ElementTree.Element) -> None:
    """Say once, on the group, what all its children say: a heat map's cells differ in little but place and colour."""
    for child in element:
        _hoist(child)
    children = [child for child in element if child.tag != f"{{{SVG}}}title"]
    if element.tag != f"{{{SVG}}}g" or len(children) < 2:
        return
    for name in INHERITED:
        values = {child.get(name) for child in children}
        if len(values) == 1 and None not in values:
            element.set(name, str(values.pop()))
            for child in children:
                del child.attrib[name]
