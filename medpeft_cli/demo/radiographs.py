"""Synthetic chest radiographs with a sentence of report each: the twin of MIMIC-CXR, 64 × 64 pixels.

What is found (where, how large) is drawn first and decides both picture and sentence, so that a text-to-image model has
something to learn: shapes are smooth, and every sentence names finding, side, place and size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from medpeft_cli.data.forms import JOINER
from medpeft_cli.demo.drawings import Array, X, Y, expose, inside, lung_fields, smooth

SIZES = ("small", "moderate", "large")
DEGREES = ("mild", "moderate", "severe")
ZONES = {"upper": -0.32, "mid": 0.02, "lower": 0.34}
NORMAL = ("No acute cardiopulmonary process.", "Normal chest radiograph.", "Clear lungs and normal heart size.")


@dataclass(frozen=True)
class Findings:
    """What a radiograph shows.

    Attributes:
        names: classes of the card.
        side: of what has a side: left or right of the patient; the right one is on the left of the picture.
        zone: of an opacity or a nodule: upper, mid or lower.
        grade: 0, 1, 2: how large or severe.
        wording: which of several sentences.
    """

    names: tuple[str, ...]
    side: str
    zone: str
    grade: int
    wording: int


def draw_findings(label: str, rng: Generator) -> Findings:
    """Draw the details of a label; these are the first numbers that a picture takes from its generator.

    Args:
        label: classes of MIMIC-CXR, joined by |.
        rng: of the picture.
    """
    side = "left" if rng.random() < 0.5 else "right"
    zone = str(rng.choice(list(ZONES)))
    return Findings(tuple(label.split(JOINER)), side, zone, int(rng.integers(3)), int(rng.integers(len(NORMAL))))


def report(label: str, rng: Generator) -> str:
    """Return the impression of the radiograph that `reported_radiograph` draws from the same generator."""
    found = draw_findings(label, rng)
    size, degree, side = SIZES[found.grade], DEGREES[found.grade], found.side
    pneumonia = ", concerning for pneumonia" if "Pneumonia" in found.names else ""
    sentences = {
        "No Finding": NORMAL[found.wording],
        "Atelectasis": f"{side} basilar atelectasis.",  # it is the opacity
        "Cardiomegaly": f"{degree} cardiomegaly.",
        "Edema": f"{degree} pulmonary edema.",
        "Lung Lesion": f"{side} {found.zone} lung nodule.",
        "Lung Opacity": "" if "Atelectasis" in found.names else f"{size} {side} {found.zone} lung opacity{pneumonia}.",
        "Pleural Effusion": f"{size} {side} pleural effusion.",
        "Pneumothorax": f"{size} {side} apical pneumothorax.",
        "Support Devices": f"{side} central line in place.",
    }
    told = [sentences[name] for name in found.names if sentences.get(name)]
    return " ".join(text[0].upper() + text[1:] for text in told)


def reported_radiograph(label: str, group: Generator, rng: Generator) -> Array:
    """Draw a frontal chest radiograph with the findings of `draw_findings`. Arguments as in `drawings`; (64, 64)."""
    found = draw_findings(label, rng)
    names, strength = set(found.names), (found.grade + 1) / 3
    sign = -1 if found.side == "right" else 1
    breath, breadth, tilt = group.uniform(0.86, 1.06), group.uniform(0.86, 1.04), rng.normal(0, 0.05)
    x, y = X - rng.normal(0, 0.04), Y - rng.normal(0, 0.04)
    x, y = (x * np.cos(tilt) + y * np.sin(tilt)) / breadth, (y * np.cos(tilt) - x * np.sin(tilt)) / breath
    body = inside(np.hypot(x / 1.05, np.clip(-y - 0.2, 0, 9) * 1.2) ** 4 - 0.75, 0.5)
    picture = 0.12 + 0.58 * body + 0.02 * smooth(rng, 6)
    lungs = lung_fields(x, 0.92 * y - 0.05)
    for dome in (-0.37, 0.37):  # the diaphragm; the angle beside it is what fluid fills
        lungs *= 1 - inside(np.hypot((x - dome) / 0.36, (y - 0.78) / 0.3) - 1, 0.12)
    width = group.uniform(0.26, 0.33) + (0.1 + 0.16 * strength if "Cardiomegaly" in names else 0)
    heart = inside(np.hypot((x - 0.12) / width, (y - 0.32) / 0.36) - 1, 0.2)
    lungs *= 1 - 0.85 * heart
    air = (
        0.5
        - 0.03 * smooth(rng, 2)
        - 0.04 * np.cos(group.uniform(0, 6) + 17 * (y + 0.45 * (np.abs(x) - 0.4) ** 2 - 0.25 * np.abs(x)))
    )
    centre = sign * rng.uniform(0.38, 0.48), ZONES[found.zone] + rng.normal(0, 0.03)
    if "Lung Opacity" in names and "Atelectasis" not in names:
        air -= 0.4 * inside(np.hypot(x - centre[0], y - centre[1]) - (0.12 + 0.16 * strength), 0.3)
    if "Lung Lesion" in names:
        air -= 0.45 * inside(np.hypot(x - centre[0], y - centre[1]) - 0.09, 0.06)
    if "Atelectasis" in names:  # a band above the diaphragm
        air -= 0.36 * inside(np.hypot((x - sign * 0.47) / 0.3, (y - 0.38 - 0.2 * (x * sign - 0.47)) / 0.09) - 1, 0.5)
    if "Edema" in names:  # from the hila outwards
        wings = np.exp(-((np.abs(x) - 0.25) ** 2) / 0.06 - y**2 / 0.2)
        air -= (0.1 + 0.32 * strength) * wings * (1 + 0.25 * smooth(rng, 2.5))
    if "Pleural Effusion" in names:
        level = 0.5 - 0.32 * strength - 0.3 * (np.abs(x) - 0.4)  # higher at the wall
        air *= 1 - 0.95 * np.clip((y - level) / 0.1, 0, 1) * (x * sign > 0)
    if "Pneumothorax" in names:  # blacker, and no markings, above the edge of the lung
        air += 0.2 * inside(y + 0.6 - 0.22 * strength - 0.2 * (np.abs(x) - 0.4), 0.1) * (x * sign > 0)
    picture -= lungs * air
    picture += 0.1 * np.exp(-((x / 0.1) ** 2))  # spine, then collar bones
    picture += 0.1 * np.exp(-(((y + 0.64 + 0.14 * np.abs(x)) / 0.045) ** 2)) * inside(np.abs(x) - 0.72, 0.2)
    if "Support Devices" in names:  # from the shoulder to the heart
        path = sign * 0.75 * np.clip(0.1 - y, 0, None) ** 1.5
        picture += 0.25 * np.exp(-(((x - path) / 0.03) ** 2)) * (y < 0.12)
    return expose(picture + 0.01 * smooth(rng, 3), group, rng, noise=0.01)
