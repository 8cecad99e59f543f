"""The rigorous mode: interval arithmetic for small networks.

Value, gradient and Hessian of a multilayer perceptron over whole boxes of parameters, and what follows: critical points
that provably exist with exactly their index, and regions that provably hold none. It needs python-flint, an extra:
``pip install thalweg[rigorous]``; without it everything here declines and says so.
"""

from thalweg.certificates.intervals.newton import IntervalNewton
from thalweg.certificates.intervals.values import IntervalGradient, gradient_interval, loss_interval

__all__ = ["IntervalGradient", "IntervalNewton", "gradient_interval", "loss_interval"]
