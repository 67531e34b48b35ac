"""From Flax modules to `Model`, a pair of pure functions over a plain nested dict of parameters.

What a Flax module holds beside its parameters is handled as follows; anything else raises a
`UserError` when ``init`` is first called.

- *Dropout* is off. ``dropout=key`` gives the model with the dropout masks of that key;
  `transforms.dropout.with_dropout` uses it for meta-training alone.
- *Batch statistics* have to be allowed by ``batch_statistics=True``. Each call then normalizes by
  the mean and variance of the rows it is given, as is usual in meta-learning, and keeps no running
  averages. A model does not see the mask, so padded rows count too: allow it only if no support or
  query is padded, and use LayerNorm or GroupNorm otherwise.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from metajax.types import Model, Params, PyTree, UserError

NO_STATISTICS = (
    "the module has batch statistics: allow them by batch_statistics=True if no support or query "
    "has padded rows, or use LayerNorm or GroupNorm"
)


def from_nnx(
    make: Callable[[nnx.Rngs, PyTree, PyTree], nnx.Module],
    *,
    dropout: jax.Array | None = None,
    batch_statistics: bool = False,
) -> Model:
    """The model of a Flax NNX module whose ``__call__`` takes ``(profile, inputs)``.

    Args:
      make: (rngs, profile, inputs) -> a new module, with its parameters drawn from ``rngs``; it may
        take widths from the shapes of profile and inputs, but nothing from their values. Learned
        arrays are ``nnx.Param``.
      dropout: the key of the dropout masks; None for no dropout.
      batch_statistics: allow BatchNorm, see this module's docstring.

    Raises:
      UserError: ``make`` is a module, not a function that makes one; or, when ``init`` is called,
        it returns the same module twice, or the module holds other state than the above.
    """
    if isinstance(make, nnx.Module):
        raise UserError(
            "from_nnx takes a function (rngs, profile, inputs) -> module, not a module: "
            "an instance would give every seed the same start"
        )

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        module = make(nnx.Rngs(key), profile, inputs)
        another = []
        jax.eval_shape(lambda: another.append(make(nnx.Rngs(0), profile, inputs)))
        if another[0] is module:
            raise UserError(
                "from_nnx: the function returns the same module at each call, so that every seed "
                "has the same start; make the module inside it, from its rngs"
            )
        return nnx.to_pure_dict(_split(module, batch_statistics)[1])

    known: dict[Hashable, tuple] = {}

    def skeleton(profile: PyTree, inputs: PyTree) -> tuple[Any, Any, Any, Any]:
        """`_split` of a module without arrays, made once for all inputs of the same shapes."""
        leaves, structure = jax.tree.flatten((profile, inputs))
        shapes = structure, *((jnp.shape(x), jnp.result_type(x)) for x in leaves)
        if shapes not in known:
            module = nnx.eval_shape(lambda: make(nnx.Rngs(0), profile, inputs))
            known[shapes] = _split(module, batch_statistics)
        return known[shapes]

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        graphdef, _, random, statistics = skeleton(profile, inputs)
        random = _seeded(random, jax.random.key(0) if dropout is None else dropout)
        statistics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), statistics)
        module = nnx.merge(graphdef, params, random, statistics)
        module.set_attributes(
            deterministic=dropout is None, use_running_average=False, raise_if_not_found=False
        )
        return module(profile, inputs)

    return Model(init, apply)


def _split(module: nnx.Module, batch_statistics: bool) -> tuple[Any, Any, Any, Any]:
    """The graph of a module, its parameters, random streams and batch statistics.

    Raises:
      UserError: it holds something else, or statistics that are not allowed.
    """
    graphdef, params, random, statistics, rest = nnx.split(
        module, nnx.Param, nnx.RngState, nnx.BatchStat, ...
    )
    if jax.tree.leaves(statistics) and not batch_statistics:
        raise UserError(f"from_nnx: {NO_STATISTICS}")
    for path, _ in nnx.to_flat_state(rest):
        name = "/".join(map(str, path))
        raise UserError(
            f"from_nnx: the module holds {name}, which is neither a parameter nor dropout nor "
            "batch statistics; make it an nnx.Param, or leave it outside of the module"
        )
    return graphdef, params, random, statistics


def _seeded(random: PyTree, key: jax.Array) -> PyTree:
    """The random streams of a module, each started from a key of its own."""
    leaves, structure = jax.tree.flatten(random)
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    begin = lambda i, x: jax.random.fold_in(key, i) if is_key(x) else jnp.zeros(x.shape, x.dtype)
    return jax.tree.unflatten(structure, [begin(i, x) for i, x in enumerate(leaves)])


def from_linen(
    module: linen.Module, *, dropout: jax.Array | None = None, batch_statistics: bool = False
) -> Model:
    """The model of a Flax Linen module whose ``__call__`` takes ``(profile, inputs)``.

    ``dropout`` and ``batch_statistics`` decide how its Dropout and BatchNorm layers behave; further
    arguments of the module, such as ``train``, keep their defaults.

    Args:
      module: the module; its parameters are made by ``init``.
      dropout: the key of the dropout masks; None for no dropout.
      batch_statistics: allow BatchNorm, see this module's docstring.

    Raises:
      UserError: when ``init`` is called, the module holds another collection than the above.
    """

    def layers(next_layer: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """Calls a layer of the module, Dropout and BatchNorm as they are to be here."""
        layer = context.module
        if isinstance(layer, linen.Dropout):
            if dropout is None:
                return args[0]
            return _called(next_layer, layer, "deterministic", args, kwargs)
        if isinstance(layer, linen.BatchNorm):
            return _called(next_layer, layer, "use_running_average", args, kwargs)
        return next_layer(*args, **kwargs)

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        key_params, key_dropout = jax.random.split(key)
        with linen.intercept_methods(layers):
            found = module.init({"params": key_params, "dropout": key_dropout}, profile, inputs)
        if "batch_stats" in found and not batch_statistics:
            raise UserError(f"from_linen: {NO_STATISTICS}")
        others = sorted(found.keys() - {"params", "batch_stats"})
        if others:
            raise UserError(
                f"from_linen: the module holds the collection {others[0]!r}, which a pure function "
                "cannot keep; only parameters, dropout and batch statistics can be taken over"
            )
        return found.get("params", {})

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        keys = {} if dropout is None else {"dropout": dropout}
        with linen.intercept_methods(layers):
            return module.apply(
                {"params": params}, profile, inputs, rngs=keys, mutable=["batch_stats"]
            )[0]

    return Model(init, apply)


def _called(next_layer: Callable, layer: Any, switch: str, args: tuple, kwargs: dict) -> Any:
    """What a layer gives with its switch (an attribute or an argument) set to False."""
    object.__setattr__(layer, switch, None)  # given twice, it would be an error
    return next_layer(args[0], **{**kwargs, switch: False})
