"""Surveys of very many seeds, and the database of critical points that they fill."""

from thalweg.catalogue.canonical import Symmetries, symmetries_of
from thalweg.catalogue.catalogue import Catalogue
from thalweg.catalogue.outcome import Survey, confidence_interval
from thalweg.catalogue.records import Batch, CatalogueError, Progress
from thalweg.catalogue.starting import INITIALIZERS
from thalweg.catalogue.surveying import survey
from thalweg.catalogue.units import UnitSymmetry

__all__ = [
    "INITIALIZERS",
    "Batch",
    "Catalogue",
    "CatalogueError",
    "Progress",
    "Survey",
    "Symmetries",
    "UnitSymmetry",
    "confidence_interval",
    "survey",
    "symmetries_of",
]
