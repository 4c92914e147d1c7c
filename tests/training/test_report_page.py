"""The report is one well-formed file that needs nothing else, and what others wrote is never markup in it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import subjects

from reward_model.records import Message
from training.report.page import page
from training.report.subject import Disagreement, Subject
from training.report.verdicts import Verdicts

VOID = {"meta", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'&\x00"


class Outline(HTMLParser):
    """Elements as they open and close; fails where they do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def whole() -> Subject:
    """With everything that can be shown."""
    turns = (Message("system", "Be kind."), Message("user", f"Why? {HOSTILE}"))
    shown = Disagreement(7, turns, f"Because. {HOSTILE}", "No.\n  Not.", (-1.0, 2.5), 0.03)
    return replace(subjects.subject(own=False), name=f"m {HOSTILE}", not_used=3, disagreements=(shown,))


def variants() -> Iterator[Subject]:
    yield whole()
    yield subjects.subject(subjects.ranked())
    yield subjects.subject(subjects.verdicts(2))
    yield subjects.subject(subjects.verdicts(900, scale=1e-3, category=HOSTILE))
    yield replace(subjects.subject(), log=None, verdicts=None)
    yield replace(subjects.subject(own=False), manifest=None)
    yield replace(subjects.subject(), log=replace(subjects.log(3000), points=subjects.log(1).points[:1]))


@pytest.mark.parametrize("subject", list(variants()))
def test_it_is_well_formed_and_needs_nothing_from_anywhere_else(subject: Subject) -> None:
    text = page(subject)
    outline = Outline(text)
    names = {tag for tag, _ in outline.tags}
    assert names & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image"} == set()
    for _, attributes in outline.tags:
        assert not attributes.keys() & {"src", "href", "srcset", "style", "data"}
        assert not any(name.startswith("on") for name in attributes)
        assert not re.search(r"\b(nan|inf(inity)?|None)\b", " ".join(f"{value}" for value in attributes.values()))
    assert "url(" not in text
    assert "@import" not in text
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("subject", list(variants()))
def test_every_drawing_says_what_it_shows_and_lies_within_its_frame(subject: Subject) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page(subject), re.DOTALL)
    assert drawings or subject.verdicts is None
    for drawing in drawings:
        svg = ET.fromstring(drawing)
        assert svg.get("role") == "img"
        known = {child.get("id"): child.text for child in svg}
        named = svg.get("aria-labelledby")
        assert all(known[one] for one in named.split()) if named else svg.get("aria-label")
        _, _, width, height = map(float, svg.attrib["viewBox"].split())
        for shape in svg.iter():
            across = [float(v) for k, v in shape.attrib.items() if k in {"x", "x1", "x2", "cx"}]
            down = [float(v) for k, v in shape.attrib.items() if k in {"y", "y1", "y2", "cy"}]
            for point in shape.get("points", "").split():
                x, y = point.split(",")
                across.append(float(x))
                down.append(float(y))
            assert all(0 <= x <= width for x in across)
            assert all(0 <= y <= height for y in down)
            assert all(float(shape.get(side, 0)) >= 0 for side in ("width", "height") if shape is not svg)


def test_all_that_is_asked_for_is_there() -> None:
    text = " ".join(Outline(page(whole())).words)
    for part in (
        "Loss over training", "Accuracy over training", "Reliability", "How sure the model is",
        "Rewards of chosen and rejected responses", "Reward against length", "Best of N", "Accuracy by category",
        "Accuracy by source", "Disagreements", "To make it again", "python -m training.train",
        "--model_name_or_path base/model", "--learning_rate 1e-05", "--attributes 'a b'", "sha256:1", "2.13.0",
        "a processor, 2 threads", "1 min 15 s", "seed", "that could not be used: 3.",
    ):  # fmt: skip
        assert part in text


def test_the_headline_is_accuracy_with_its_interval() -> None:
    subject = subjects.subject()
    assert subject.verdicts is not None
    text = " ".join(Outline(page(subject)).words).replace("\N{NO-BREAK SPACE}", " ")
    accuracy = subject.verdicts.accuracy
    low, high = accuracy.accuracy_interval
    assert f"{100 * accuracy.accuracy:.1f} %" in text
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in text
    errors = subject.calibration.metrics
    assert f"{errors['ece_after']:.3f}" in text
    assert f"{errors['ece_before']:.3f} before calibration" in text
    assert "could not be scored, and count 0.5: 8." in text


def test_what_others_wrote_is_text_and_never_markup() -> None:
    for subject in (whole(), subjects.subject(subjects.verdicts(category=HOSTILE))):
        text = page(subject)
        assert "<script" not in text
        assert "\x00" not in text
        assert escape(HOSTILE).replace("\x00", "\u2400") in text
        assert "alert(1)" in unescape(text)


def test_a_row_quoted_in_the_training_record_is_not_shown() -> None:
    text = page(subjects.subject())
    assert "3 too_long" in text
    assert "quoted" not in text


def test_a_figure_without_data_is_left_out_with_a_sentence() -> None:
    text = " ".join(Outline(page(replace(subjects.subject(), log=None, verdicts=None))).words)
    assert "No scores of held-out pairs are on record" in text
    for title in ("Loss over training", "Accuracy over training", "Reliability", "Reward against length", "Best of N"):
        assert re.search(rf"{title}\s+: \w", text)


def test_the_same_subject_gives_the_same_bytes() -> None:
    assert page(whole()) == page(whole())


def test_it_has_a_light_and_a_dark_face_that_can_be_read() -> None:
    text = page(subjects.subject())
    assert "prefers-color-scheme: dark" in text
    light, dark, paper = (
        dict(re.findall(r"--(\w+): (#\w+)", root)) for root in re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    )
    for face in (light, dark, paper):
        for ink in ("ink", "soft", "first", "second"):
            for ground in ("card", "page"):
                assert contrast(face[ink], face[ground]) >= 4.5


def contrast(a: str, b: str) -> float:
    """As WCAG 2.2 defines it: 4.5 is what text needs."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: Looks at each frame: text that lies on other text of its drawing, outside of it, or makes the page scroll sideways.
CHECKER = """
const found = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, width = frame.clientWidth;
  if (page.documentElement.scrollWidth > width) found.push(`${width}: scrolls sideways`);
  for (const svg of page.querySelectorAll("svg")) {
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([a, p], i) => {
      if (p.width === 0) found.push(`${width}: ${a} is not drawn`);
      if (p.left < edge.left - 1 || p.right > edge.right + 1 || p.top < edge.top - 1 || p.bottom > edge.bottom + 1)
        found.push(`${width}: ${a} leaves its drawing`);
      if (!svg.closest("th") && p.height < 9) found.push(`${width}: ${a} is too small`);
      for (const [b, q] of texts.slice(i + 1))
        if (p.left < q.right - 0.5 && q.left < p.right - 0.5 && p.top < q.bottom - 1 && q.top < p.bottom - 1)
          found.push(`${width}: ${a} lies on ${b}`);
    });
  }
  for (const box of page.querySelectorAll("figure, .tile, .group, .pair"))
    if (box.getBoundingClientRect().right > width + 1) found.push(`${width}: ${box.textContent.slice(0, 30)} is cut`);
  found.push(`${width}: ${page.querySelectorAll("svg text").length} texts looked at`);
}
document.body.replaceChildren(JSON.stringify(found));
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to render the report with")
def test_no_label_lies_on_another_at_any_width(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    pages = [
        page(whole()),
        page(subjects.subject(subjects.ranked())),
        page(subjects.subject(subjects.verdicts(40, scale=1e-3))),
    ]
    # The page forbids scripts to itself; what looks at it is outside.
    frames = [
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{escape(one)}"></iframe>'
        for one in pages
        for width in (400, 1200)
    ]
    path = tmp_path / "checker.html"
    path.write_text(
        f"<!doctype html><body>{''.join(frames)}<script>onload = () => {{{CHECKER}}}</script></body>", "utf-8"
    )
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.findall(r'"(.*?)"', unescape(dom[dom.index("[") :]))
    looked_at = [one for one in found if one.endswith("looked at")]
    assert len(looked_at) == len(frames)
    assert not [one for one in looked_at if " 0 texts" in one]
    assert [one for one in found if one not in looked_at] == []


def test_pairs_without_any_label_make_no_table() -> None:
    found = subjects.ranked()
    assert isinstance(found, Verdicts)
    text = " ".join(Outline(page(subjects.subject(found))).words)
    assert re.search(r"Accuracy by category\s+: no pair has a category\.", text)


def test_more_labels_than_can_be_read_are_cut_and_counted() -> None:
    found = subjects.verdicts(200)
    many = replace(found, pairs=tuple(replace(one, source=f"s{i // 2}") for i, one in enumerate(found.pairs)))
    assert "60 more with fewer pairs are not shown" in page(subjects.subject(many))
