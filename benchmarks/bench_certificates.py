"""What the certificates of a trained network cost: digits, 64-64-10, all 1,797 samples.

The network is trained by Adam for some epochs, as an ordinary user would, then asked for everything that is affordable:
once under cross-entropy, once under squared errors of one-hot labels, with ReLU and with tanh.

Run: ``python -m benchmarks.run certificates``.
"""

from __future__ import annotations

import time

import torch
from sklearn.datasets import load_digits
from torch import nn

import thalweg as tw

TITLE = "Certificates of a 64-64-10 network on digits"
EPOCHS = 20


def trained(loss: nn.Module, activation: nn.Module) -> tw.EmpiricalRisk:
    """A network trained in single precision, and its risk over all samples."""
    data = load_digits()
    inputs, labels = torch.tensor(data.data / 16).float(), torch.tensor(data.target)
    targets = labels if isinstance(loss, nn.CrossEntropyLoss) else nn.functional.one_hot(labels).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), activation, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(inputs)).split(32):
                optimizer.zero_grad()
                loss(model(inputs[batch]), targets[batch]).backward()
                optimizer.step()
    return tw.EmpiricalRisk(model, loss, inputs, targets)


def section(loss: nn.Module, activation: nn.Module) -> str:
    """Everything that was asked, dearest first."""
    risk = trained(loss, activation)
    begun = time.perf_counter()
    found = tw.certify(risk, risk.initial)
    seconds = time.perf_counter() - begun
    counted = [each for each in found if each.outcome.value != "not applicable"]
    lines = [
        f"**{type(loss).__name__}, {type(activation).__name__}**, P = {risk.space.size:,}, N = {risk.n_samples:,}: "
        f"{len(found)} certificates asked in {seconds:.1f} s; {len(found) - len(counted)} do not apply.",
        "",
        "| certificate | outcome | seconds | what |",
        "|---|---|---|---|",
    ]
    for each in sorted(counted, key=lambda one: -one.seconds):
        what = each.claim or each.reason
        lines.append(f"| {each.name} | {each.outcome.value} | {each.seconds:.2f} | {what} |")
    return "\n".join(lines)


def run() -> str:
    """All four."""
    return "\n\n".join(
        section(loss(), activation()) for loss in (nn.CrossEntropyLoss, nn.MSELoss) for activation in (nn.ReLU, nn.Tanh)
    )


if __name__ == "__main__":
    print(run())
