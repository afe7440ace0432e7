"""State estimation through quadratic programs: where the tip of an arm is, from measurements of it with noise."""

from robotics.estimation.learning import fit_model
from robotics.estimation.model import LinearGaussianModel
from robotics.estimation.smoother import Estimate, build_smoothing, log_likelihood, smooth

__all__ = ["Estimate", "LinearGaussianModel", "build_smoothing", "fit_model", "log_likelihood", "smooth"]
