from __future__ import annotations

import pytest

from tailkeep.report import theme


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("colours", "strong"),
    [(theme.LOSS_TO_GAIN, theme.STRONG_LOSS_TO_GAIN), (theme.LOW_TO_HIGH, theme.STRONG_LOW_TO_HIGH)],
    ids=["change", "recall"],
)
def test_the_numbers_in_a_heat_map_can_be_read(scheme: int, colours, strong) -> None:
    inks = [theme.BASE["on-strong" if is_strong else "on-weak"][scheme] for is_strong in strong]
    found = {pair[scheme]: round(contrast(pair[scheme], ink), 2) for pair, ink in zip(colours, inks, strict=True)}
    assert min(found.values()) >= 4.5, found


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_paper(scheme: int) -> None:
    paper = theme.BASE["paper"][scheme]
    texts = {"ink": theme.BASE["ink"], "soft": theme.BASE["soft"]}
    texts |= {label: verdict[2:] for label, verdict in theme.VERDICTS.items()}
    for name, pair in texts.items():
        assert contrast(pair[scheme], paper) >= 4.5, name
    assert contrast(texts["soft"][scheme], theme.BASE["blank"][scheme]) >= 4.5


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_marks_can_be_seen_on_paper(scheme: int) -> None:
    for pair in (*theme.TECHNIQUES, *theme.CONTROLS, theme.DENSE):
        assert contrast(pair[scheme], theme.BASE["paper"][scheme]) >= 3


def test_every_light_colour_has_one_name() -> None:
    lights = [light for light, _ in theme.variables().values()]
    assert len(set(lights)) == len(lights)


def test_methods_keep_apart() -> None:
    roles = {"dense": "dense", "a": "technique", "b": "technique", "c": "control"}
    names = theme.method_colours(list(roles), roles)
    assert names == {"dense": "dense", "a": "tech-0", "b": "tech-1", "c": "control-0"}
