"""What network is it? Layers, activations, units and symmetries, read from what a module computes."""

from thalweg.structure.activation_check import contradictions
from thalweg.structure.activation_match import match_activation
from thalweg.structure.activation_table import elu_facts, leaky_relu_facts, power_facts, softplus_facts
from thalweg.structure.activations import (
    ActivationFacts,
    Parity,
    activation_facts,
    register_activation,
    registered_activations,
)
from thalweg.structure.dense import DenseLayer, DenseNetwork, Units
from thalweg.structure.duplicates import DuplicateUnits, duplicate_directions, duplicate_units
from thalweg.structure.flat_directions import (
    FlatDirection,
    output_shifts,
    span_basis,
    stack_directions,
    symmetry_tangents,
    unused_parameters,
)
from thalweg.structure.idle_units import dead_unit_directions
from thalweg.structure.jets import jet
from thalweg.structure.linear_units import dependent_unit_directions, one_sided_unit_directions
from thalweg.structure.network import NetworkStructure
from thalweg.structure.redundant import flat_directions, unused_input_directions
from thalweg.structure.skips import Skip
from thalweg.structure.steps import Step
from thalweg.structure.tracing import TraceReport, explain_trace, trace
from thalweg.structure.unit_ranges import UnitRange, unit_activations, unit_ranges
from thalweg.structure.units import UnitGroup
from thalweg.structure.weights import Weights

__all__ = [
    "ActivationFacts",
    "DenseLayer",
    "DenseNetwork",
    "DuplicateUnits",
    "FlatDirection",
    "NetworkStructure",
    "Parity",
    "Skip",
    "Step",
    "TraceReport",
    "UnitGroup",
    "UnitRange",
    "Units",
    "Weights",
    "activation_facts",
    "contradictions",
    "dead_unit_directions",
    "dependent_unit_directions",
    "duplicate_directions",
    "duplicate_units",
    "elu_facts",
    "explain_trace",
    "flat_directions",
    "jet",
    "leaky_relu_facts",
    "match_activation",
    "one_sided_unit_directions",
    "output_shifts",
    "register_activation",
    "power_facts",
    "registered_activations",
    "softplus_facts",
    "span_basis",
    "stack_directions",
    "symmetry_tangents",
    "trace",
    "unit_activations",
    "unit_ranges",
    "unused_input_directions",
    "unused_parameters",
]
