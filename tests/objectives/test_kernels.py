"""What is computed in place of fused kernels is the same, and can be differentiated as often as it is asked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from thalweg.objectives import EmpiricalRisk, taylor
from thalweg.objectives.kernels import elementary_operations, fused_kernels
from thalweg.objectives.probe import operations_of

SOURCE = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=SOURCE, dtype=torch.float64)


WORDS = torch.randint(0, 6, (5, 3), generator=SOURCE)
WORDS[0] = 2  # a bag of nothing but padding, where 2 is padding
WEIGHTS = draw(5, 3)


def bag(mode: str, **settings: Any) -> Any:
    return lambda w: F.embedding_bag(WORDS, w, mode=mode, **settings)


V, G = draw(4, 3, 2), draw(4, 1, 1)
CASES: dict[str, tuple[str, Any, Tensor]] = {
    "weight norm": ("weight norm", lambda g: torch._weight_norm(V, g, 0), draw(4, 1, 1)),
    "weight norm of v": ("weight norm", lambda v: torch._weight_norm(v, G, 0), draw(4, 3, 2)),
    "weight norm last": ("weight norm", lambda v: torch._weight_norm(v, draw(1, 1, 2), 2), draw(4, 3, 2)),
    "weight norm of all": ("weight norm", lambda v: torch._weight_norm(v, G[:1, 0, 0], -1), draw(4, 3, 2)),
    "layer norm": ("layer norm", lambda x: F.layer_norm(x, (3,)), draw(5, 3)),
    "layer norm affine": ("layer norm", lambda x: F.layer_norm(x, (4, 3), draw(4, 3), draw(4, 3), 0.1), draw(2, 4, 3)),
    "layer norm module": ("layer norm", nn.LayerNorm(3).double(), draw(5, 3)),
    "layer norm in C": ("layer norm", lambda x: torch.layer_norm(x, [3], None, None, 1e-3), draw(5, 3)),
    "bag mean": ("embedding bag", bag("mean"), draw(6, 4)),
    "bag sum": ("embedding bag", bag("sum"), draw(6, 4)),
    "bag max": ("embedding bag", bag("max"), draw(6, 4)),
    "bag weighted": ("embedding bag", bag("sum", per_sample_weights=WEIGHTS), draw(6, 4)),
    "bag padded": ("embedding bag", bag("mean", padding_idx=2), draw(6, 4)),
    "bag padded from behind": ("embedding bag", bag("sum", padding_idx=-4), draw(6, 4)),
    "bag padded max": ("embedding bag", bag("max", padding_idx=2), draw(6, 4)),
    "attention": ("attention", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), draw(2, 4, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_and_gradients(name: str) -> None:
    kernel, function, x = CASES[name]
    state = SOURCE.get_state()

    def run() -> tuple[Tensor, Tensor]:
        SOURCE.set_state(state)
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        (slope,) = torch.autograd.grad((out * torch.linspace(0, 1, out.numel()).reshape(out.shape)).sum(), leaf)
        return out.detach(), slope

    wanted = run()
    with elementary_operations(frozenset({kernel})):
        found = run()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in CASES if "max" not in n])
def test_second_derivatives_by_differences(name: str) -> None:
    kernel, function, x = CASES[name]
    state = SOURCE.get_state()

    def squared(x: Tensor) -> Tensor:
        SOURCE.set_state(state)
        return (torch.sin(function(x)) ** 2).sum()

    with elementary_operations(frozenset({kernel})):
        assert torch.autograd.gradgradcheck(squared, (x.clone().requires_grad_(),), atol=1e-6)


def test_kernels_are_seen_in_what_is_computed() -> None:
    for name, (kernel, function, x) in CASES.items():
        with torch.no_grad():
            seen = fused_kernels(operations_of(lambda f=function, x=x: f(x)))
        if name not in ("weight norm of all", "attention"):  # torch writes these two out by itself
            assert seen == {kernel}, name
    assert fused_kernels(operations_of(lambda: torch.tanh(draw(3)))) == frozenset()


@pytest.mark.parametrize("hooks", [True, False])
def test_weight_norm_has_its_true_hessian(hooks: bool) -> None:
    """Torch's own second derivative takes the norm for a constant; differences of gradients say what is true."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = nn.utils.weight_norm if hooks else nn.utils.parametrizations.weight_norm
        model = nn.Sequential(normed(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
    risk = EmpiricalRisk(model, nn.MSELoss(), draw(7, 3), draw(7, 2))
    theta, step = risk.initial, 1e-5
    units = torch.eye(risk.space.size, dtype=torch.float64)
    slopes = risk.gradient(theta + step * units) - risk.gradient(theta - step * units)
    torch.testing.assert_close(risk.hessian(theta), slopes / (2 * step), rtol=1e-6, atol=1e-8)


def test_settings_are_put_back() -> None:
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(KeyError, match="inside"), elementary_operations(frozenset({"attention", "layer norm"})):
        raise KeyError("inside")
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before


class Padded(nn.Module):
    """An encoder whose fused kernel hides attention and layer normalisation both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.encode = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.1, batch_first=True), 2)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        h = self.encode(self.embed(tokens), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).to(h.dtype)
        return self.head((h * kept).sum(1) / kept.sum(1))


def test_kernels_inside_of_kernels_are_seen() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Padded().eval()
    tokens = torch.randint(1, 7, (8, 5), generator=SOURCE)
    tokens[0, 3:] = 0
    batch = {"tokens": tokens, "padding": tokens == 0}
    targets = torch.randint(0, 3, (8,), generator=SOURCE)
    risk = EmpiricalRisk(model, nn.CrossEntropyLoss(), batch, targets)
    assert risk._kernels == {"attention", "layer norm"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wanted = F.cross_entropy(model.double()(**batch), targets)
    torch.testing.assert_close(risk.value(risk.initial), wanted, rtol=1e-12, atol=0)
    direction = torch.randn(risk.space.size, generator=SOURCE, dtype=torch.float64)
    ends = [risk.hessian_product(risk.initial + s * 1e-5 * direction, direction) for s in (1, -1)]
    third = taylor(risk, risk.initial, direction, 3)[3]
    torch.testing.assert_close(third, direction @ (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-6)


class SinglePrecisionInside(nn.Module):
    """A root-mean-square norm that computes in float32 whatever it is given, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(3, 6), nn.Linear(6, 2), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        low = h.to(torch.float32)
        low = low * torch.rsqrt(low.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.last(torch.tanh(self.scale * low.to(h.dtype)))


def single_precision_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.float(), targets)


def test_single_precision_inside_is_no_reason_to_refuse() -> None:
    torch.manual_seed(0)
    model, x = SinglePrecisionInside(), draw(30, 3)
    targets = torch.randint(0, 2, (30,), generator=SOURCE)
    for loss in (nn.CrossEntropyLoss(), single_precision_loss):
        reduction = None if isinstance(loss, nn.Module) else "mean"
        risk = EmpiricalRisk(model, loss, x, targets, reduction=reduction)
        assert risk.path.second == "double-backward", risk.path.notes
        plain = F.cross_entropy(model.double()(x), targets).detach()
        torch.testing.assert_close(risk.value(risk.initial).double(), plain, rtol=1e-6, atol=0)
