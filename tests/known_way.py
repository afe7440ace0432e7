"""One way that the tests of recordings, figures, pages and their commands look at: Duka's arm past three circles."""

import json
import re

import torch

from robotics import Circles, PlanarArm
from robotics.recording import record


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


ARM = PlanarArm.duka()
SCENE = {"circles": [[2.4, 2.6, 0.5], [-1.6, 3.2, 0.6], [0.6, -2.0, 0.6]]}
CIRCLES, NOTHING = Circles.from_json(SCENE), Circles.from_json({"circles": []})
START, TARGET = numbers(0.3, -0.6, 0.5), numbers(3.3, 3.4)
WAY = record(ARM, START, TARGET, CIRCLES)


def recording_in(page):
    """What a page carries inside."""
    found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', page.read_text(), re.S)
    return json.loads(found.group(1))
