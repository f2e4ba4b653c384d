"""Conjugate gradients, Gram operators and convolutions; they know nothing of priors."""
