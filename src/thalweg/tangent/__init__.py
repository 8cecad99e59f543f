"""What a point looks like: Jacobians, kernels, curvature operators, eigenpairs, inertia, traces, densities."""

from thalweg.tangent.curvature import (
    gauss_newton_operator,
    hessian_operator,
    jacobian,
    jacobian_operator,
    residual_operator,
)
from thalweg.tangent.eigenpairs import Eigenpairs, RayleighQuotient
from thalweg.tangent.hessian_error import HessianError, hessian_error
from thalweg.tangent.hutch_plus_plus import TraceEstimate, trace
from thalweg.tangent.inertia import ErrorBar, Inertia, hessian_rounding, inertia
from thalweg.tangent.kernel import BlockRoute, TangentKernel, kernel_operator, tangent_kernel
from thalweg.tangent.lanczos import extreme_eigenpairs
from thalweg.tangent.lanczos_quadrature import Density, Estimate, spectral_density

__all__ = [
    "BlockRoute",
    "Density",
    "Eigenpairs",
    "ErrorBar",
    "Estimate",
    "HessianError",
    "Inertia",
    "RayleighQuotient",
    "TangentKernel",
    "TraceEstimate",
    "extreme_eigenpairs",
    "gauss_newton_operator",
    "hessian_error",
    "hessian_operator",
    "hessian_rounding",
    "inertia",
    "jacobian",
    "jacobian_operator",
    "kernel_operator",
    "residual_operator",
    "spectral_density",
    "tangent_kernel",
    "trace",
]
