"""Optimizers of the inner loop, and lazy Adam for tables of which a step touches few rows."""

from metajax.optim.inner import Inner, fixed, learned_rates, learned_step_rates

__all__ = ["Inner", "fixed", "learned_rates", "learned_step_rates"]
