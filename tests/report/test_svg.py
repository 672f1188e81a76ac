from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tailkeep.report import svg, theme

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9">'


def test_only_what_is_known_stays() -> None:
    drawing = (
        f'{HEAD}<script>x()</script><g onclick="x()" style="fill:red"><a xlink:href="http://e"><text>t</text></a>'
        '<image href="http://e"/><rect fill="url(http://e)" width="1"/><foreignObject><b>x</b></foreignObject>'
        '<text fill="#000">a&lt;b</text></g></svg>'
    )
    found = svg.inline(drawing, "w0")
    for word in ("script", "onclick", "style", "href", "image", "foreignObject", "xlink", "http"):
        assert word not in found
    assert "a&lt;b" in found


def test_colours_become_variables_and_ids_keep_apart() -> None:
    ink = theme.colour("ink")
    drawing = (
        f'{HEAD}<defs><clipPath id="clip0"><rect width="1" height="1"/></clipPath></defs>'
        f'<g clip-path="url(#clip0)"><rect width="1.23456" fill="{ink}"/></g></svg>'
    )
    found = svg.inline(drawing, "n3")
    assert 'id="n3-clip0"' in found
    assert 'clip-path="url(#n3-clip0)"' in found
    assert 'fill="var(--ink)"' in found


def test_a_description_becomes_a_tip() -> None:
    found = svg.inline(
        f'{HEAD}<path d="M1,2" aria-label="3|a · &lt;b&gt;"/><path d="M3" aria-label="x: 1"/></svg>', "w"
    )
    tree = ElementTree.fromstring(found)
    assert [path.get("data-m") for path in tree] == ["3", None]
    assert tree[0][0].text == "a · <b>"
    assert "x: 1" not in found


def test_what_all_children_say_is_said_once() -> None:
    found = svg.inline(f'{HEAD}<g><path d="M1" stroke="red"/><path d="M2" stroke="red"/></g></svg>', "w")
    assert found.count("red") == 1
    assert '<g stroke="red">' in found


def test_a_broken_drawing_is_not_hidden() -> None:
    with pytest.raises(ElementTree.ParseError):
        svg.inline("<svg><g></svg>", "w")


def test_clip_paths_are_counted_from_zero() -> None:
    drawing = '<clipPath id="clip37"/><clipPath id="clip40"/><g clip-path="url(#clip40)"/><g clip-path="url(#clip37)"/>'
    assert svg.numbered(drawing) == (
        '<clipPath id="clip0"/><clipPath id="clip1"/><g clip-path="url(#clip1)"/><g clip-path="url(#clip0)"/>'
    )
