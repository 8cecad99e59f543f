"""Where channels can be looked for: a multilayer perceptron with smooth activations, or the reason why not."""

from __future__ import annotations

from typing import NamedTuple

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import EmpiricalRisk, NormBarrier, Objective
from thalweg.objectives.convert import find_risk
from thalweg.objectives.networks import explain_network
from thalweg.objectives.sums import SumObjective
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_network import ChannelNetwork, Merging

__all__ = ["Ground", "ground_of"]


class Ground(NamedTuple):
    """What can be asked for channels.

    Attributes:
        risk: the loss, without a barrier.
        network: its perceptron.
        layers: hidden layers that may have channels.
        forms: losses in the coordinates of channels that were made already, which takes longer than to use them.
    """

    risk: EmpiricalRisk
    network: DenseNetwork
    layers: tuple[int, ...]
    forms: dict[Merging, EmpiricalRisk]

    def form(self, merging: Merging) -> EmpiricalRisk:
        """The loss of the network with channels of one layer in stable coordinates."""
        if merging not in self.forms:
            self.forms[merging] = self._form(merging)
        return self.forms[merging]

    def _form(self, merging: Merging) -> EmpiricalRisk:
        risk, network = self.risk, self.network
        shape = risk.structured_outputs(risk.initial.new_zeros(1, risk.n_outputs)).shape[1:]
        module = ChannelNetwork(network, merging, shape).to(risk.device, risk.dtype)
        return risk.with_model(module, network.features(risk.inputs).to(risk.device, risk.dtype))


def ground_of(objective: Objective, layer: int | None = None) -> Ground:
    """The risk and its network.

    Raises:
        NotApplicableError: with the reason why there are no channels to resolve.
        InvalidInputError: for a layer that is not there.
    """
    risk = find_risk(objective)
    others = [term for term in objective.terms if term is not risk] if isinstance(objective, SumObjective) else []
    for term in others:
        if not isinstance(term, NormBarrier):
            raise NotApplicableError(
                f"{term!r} grows without bound along a channel, or may: with it no minimum lies at infinity"
            )
    if risk is None or risk.space != objective.space:
        raise NotApplicableError("channels need one term over data, all of whose parameters are free")
    network = _network(risk)
    hidden = range(len(network.hidden))
    if layer is not None and layer not in hidden:
        raise InvalidInputError(f"there are {len(network.hidden)} hidden layers, numbered from 0; got {layer}")
    smooth = [k for k in hidden if network.layers[k].activation.smooth]
    wanted = [k for k in (hidden if layer is None else [layer]) if k in smooth]
    if not wanted:
        names = ", ".join(dict.fromkeys(one.activation.name for one in network.hidden)) or "no hidden layer"
        raise NotApplicableError(f"channels are resolved for smooth activations, not for {names}")
    return Ground(risk, network, tuple(wanted), {})


def _network(risk: EmpiricalRisk) -> DenseNetwork:
    report = explain_network(risk)
    if report.structure is None:
        raise NotApplicableError(f"the network cannot be read: {report.reason}")
    network = report.structure.as_dense()
    if network is None:
        raise NotApplicableError(f"it needs a multilayer perceptron: {report.structure.explain_dense()}")
    if network.rows_per_sample != 1 or network.tied:
        raise NotApplicableError("each parameter must be used once, on one row a sample")
    tables = [table for one in network.layers for table in (one.weight_coordinates, one.bias_coordinates)]
    if any(bool((table < 0).any()) for table in tables if table is not None):
        raise NotApplicableError("some weights are frozen; free all of them")
    return network
