"""Study: flat channels to infinity in neural loss landscapes."""

from __future__ import annotations

from thalweg.studies.channels.inside import inside
from thalweg.studies.channels.landscape import landscape
from thalweg.studies.channels.levels import levels, published_state
from thalweg.studies.channels.roughness import roughness
from thalweg.studies.channels.settings import FULL, QUICK, Settings
from thalweg.studies.study import Study

__all__ = ["STUDY", "Settings"]

STUDY = Study(
    name="channels",
    title="Flat channels to infinity in neural loss landscapes",
    source="Martinelli, van Meegen, Şimşek, Gerstner and Brea, NeurIPS 2025, arXiv 2506.14951",
    about=(
        "Many of the flat minima that training finds are entrances of channels: the input weights of two units merge "
        "while their output weights grow without bound in opposite directions, and the loss falls ever more slowly. At "
        "infinity the pair computes a unit and a gated linear unit."
    ),
    presets={"quick": QUICK, "full": FULL},
    parts=(landscape, inside, levels, published_state, roughness),
)
