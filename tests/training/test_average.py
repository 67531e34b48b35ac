"""The running mean of parameters is the mean that pencil and paper give."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.training import loop
from metajax.training.average import averaged, averages
from metajax.training.steps import Recipe
from metajax.training.updates import Update


def test_the_mean_is_a_decayed_sum_and_training_is_as_without_it():
    climb = Update(lambda params: (), lambda params, state, grads: (params + grads, state))
    plain = Recipe(
        lambda key, batch: jnp.zeros(()),
        lambda params, batch, key: (jnp.ones(()), {"loss": params}),
        climb,
    )
    keys = jax.random.split(jax.random.key(0), 2)
    sample = lambda data, key: ()
    fitted = loop.fit(averaged(plain, 0.2), sample, (), keys, 4)
    mean = 0.0
    for step in range(4):  # parameters 1, 2, 3, 4; the first step keeps a tenth, then a fifth
        kept = min(0.2, (step + 1) / (step + 10))
        mean = kept * mean + (1 - kept) * (step + 1)
    np.testing.assert_allclose(fitted.params.now, [4.0, 4.0])
    np.testing.assert_allclose(averages(fitted.params), [mean, mean], rtol=1e-6)
    assert 3.7 < mean < 3.8
