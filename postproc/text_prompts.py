"""Which prompts are 'text' prompts: pictures of letters, keycaps, flags, clock faces and signs, whose meaning hangs on exact lines.
This is the one place that says so. Labels are those of data.h5: Unicode's subgroups, and the folders of Tux Paint's stamps."""

import re

import numpy as np

SUBGROUPS = {
    "alphanum", "keycap", "alphabets",  # letters and digits
    "punctuation", "math", "currency",  # single characters
    "country-flag", "subdivision-flag", "flag", "flags",
    "transport-sign", "warning", "roadsigns",  # signs
}
CLOCK_FACE = re.compile(r"o’clock|-thirty|\bclock\b|\bwatch\b")  # "eight o’clock", "six-thirty", "A clock face."
HANDS = "Sign Language"  # stamps of the folder alphabets that show a hand


def are_text(captions: np.ndarray, subgroups: np.ndarray) -> np.ndarray:
    """[N] bool"""
    return np.array([HANDS not in caption and (subgroup in SUBGROUPS or bool(CLOCK_FACE.search(caption)))
                     for caption, subgroup in zip(captions, subgroups)], dtype=bool)
