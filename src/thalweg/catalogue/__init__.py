"""The database of critical points that surveys of many seeds fill."""

from thalweg.catalogue.canonical import Symmetries, symmetries_of
from thalweg.catalogue.catalogue import Catalogue
from thalweg.catalogue.records import Batch, CatalogueError, Progress
from thalweg.catalogue.units import UnitSymmetry

__all__ = ["Batch", "Catalogue", "CatalogueError", "Progress", "Symmetries", "UnitSymmetry", "symmetries_of"]
