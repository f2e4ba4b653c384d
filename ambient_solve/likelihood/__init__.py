"""p(y | x) of any operator and noise: misfit, prox, draws and linear algebra."""

from ambient_solve.likelihood.likelihood import Likelihood

__all__ = ["Likelihood"]
