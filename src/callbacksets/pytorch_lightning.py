"""The adapter for a Trainer of the `pytorch_lightning` namespace, which some libraries use, such as darts."""

import pytorch_lightning as pl

from callbacksets.adapter import AdapterHooks


# the hooks are annotated with the other namespace's Trainer, which has the same interface
class CallbackSetAdapter(AdapterHooks, pl.Callback):  # type: ignore[misc]
    """`callbacksets.CallbackSetAdapter`, for `pytorch_lightning.Trainer`.

    Example:
        >>> from callbacksets.pytorch_lightning import CallbackSetAdapter
        >>> adapter = CallbackSetAdapter(["history"])
        >>> trainer = pl.Trainer(callbacks=[adapter])  # doctest: +SKIP

    Args, Raises: as for `callbacksets.CallbackSetAdapter`.
    """

    trainer_class: type = pl.Trainer
    checkpoint_class: type = pl.callbacks.Checkpoint
