"""CMML: a context, encoded from the support, modulates every layer of a network."""

from metajax import losses
from metajax.learners.amortized import neural_process
from metajax.types import MetaLearner, Model


def cmml(
    embed: Model,
    encode: Model,
    decode: Model,
    num_context: int,
    *,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """CMML: the mean code of the examples is a context that modulates the decoder; no inner steps.

    A `neural_process` whose encoder and decoder read the same learned embedding. As published, the
    embedding gets no gradient through the encoder.

    Args:
      embed: a model whose ``apply`` gives features (N, E).
      encode: a model of the inputs ``(features, label)`` whose codes are (N, ``num_context``), for
        instance `models.features.labeled_features`.
      decode: a model of features that is called with the profile ``(profile, context)``, for
        instance `models.modulated.film_mlp`, for which ``num_context`` must be E.
      num_context: length of the context, which is zero for a task without examples.
      loss: the outer loss on the query set.

    References: Feng et al., "CMML: contextual modulation meta learning for cold-start
    recommendation", CIKM 2021.
    """
    return neural_process(encode, decode, num_context, embed=embed, loss=loss)
