"""The verdict: everything below asked of one point."""

from thalweg.inspection.course import Course, follow_course, inspect_course
from thalweg.inspection.inspector import inspect
from thalweg.inspection.records import (
    Curvature,
    Finding,
    FlatGroup,
    Forecast,
    Layer,
    Noise,
    Pace,
    Point,
    Skipped,
    Slice,
    Units,
)
from thalweg.inspection.verdict import Kind, Polish, Verdict

__all__ = [
    "Course",
    "Curvature",
    "Finding",
    "FlatGroup",
    "Forecast",
    "Kind",
    "Layer",
    "Noise",
    "Pace",
    "Point",
    "Polish",
    "Skipped",
    "Slice",
    "Units",
    "Verdict",
    "follow_course",
    "inspect",
    "inspect_course",
]
