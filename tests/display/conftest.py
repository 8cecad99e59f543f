"""A report with one of everything in it."""

from __future__ import annotations

import math

import pytest

from thalweg.display import (
    Axis,
    Caption,
    Code,
    Column,
    Facts,
    Figure,
    Mark,
    Notice,
    Quantity,
    Report,
    Section,
    Table,
    bars,
    histogram,
    line,
    points,
    stems,
    surface,
)

CAPTION = Caption("What was computed.", "The sample data.", "Exact up to rounding.")


@pytest.fixture
def figures() -> list[Figure]:
    """Every kind of series on every kind of axis."""
    upright = Mark(2.0, "limit", "x")
    loss = [[1e-3, 1.0, 10.0], [0.0, math.inf, 0.1]]
    return [
        Figure(
            "Spectrum",
            CAPTION,
            Axis("number"),
            Axis("eigenvalue", scale="symlog"),
            [stems("", [1, 2, 3], [5, 0, -1e-3])],
        ),
        Figure("Density", CAPTION, Axis("value"), Axis("density"), [histogram("h", [0.0, 1, 1, 3])], [upright]),
        Figure(
            "Descent",
            CAPTION,
            Axis("step"),
            Axis("loss", scale="log"),
            [
                line("mean", [0, 1, 2], [1, 0.1, 0.01], error=[0.5, 0.05, 0.02]),
                points("runs", [0, 1], [2, 3], [0.1, 0.2]),
            ],
            [Mark(0.05, "target")],
        ),
        Figure(
            "Layers",
            CAPTION,
            Axis("layer"),
            Axis("norm"),
            [bars("a", ["x", "y"], [1, 2], [0.1, 0.1]), bars("b", ["x", "y"], [3, -1])],
        ),
        Figure(
            "Landscape",
            CAPTION,
            Axis("w"),
            Axis("epsilon", scale="log"),
            [line("path", [1.0, 2.0], [0.5, 0.02]), points("end", [2.0], [1e-5])],
            ground=surface("loss", [0.0, 1.0, 4.0], [0.01, 1.0], loss, scale="log"),
        ),
    ]


@pytest.fixture
def report(figures: list[Figure]) -> Report:
    """One of everything."""
    return Report(
        "Verdict on `model`",
        [
            Section(
                "Point", [Facts([("loss", Quantity(0.5, 0.01)), ("index", None, "not decided")]), "A plain sentence."]
            ),
            Section("Tables", [Table(["name", Column("time", "s")], [("layer[0]", 1.5), ("last", 20)], "Times")]),
            Section("Pictures", figures),
            Section("Next", [Notice("warn", "Take a step.", "It gains 0.1."), Code("tw.minimize(objective)")]),
        ],
        summary=[Notice("bad", "A saddle.")],
        footer="Made for a test.",
    )
