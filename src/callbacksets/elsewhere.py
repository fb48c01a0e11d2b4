"""The hooks of other libraries, and the stages that correspond to them."""

from collections.abc import Mapping

_HOOKS: Mapping[str, Mapping[str, str]] = {
    "Lightning": {
        "on_begin": "setup on_fit_start on_train_start on_pretrain_routine_start on_pretrain_routine_end",
        "on_epoch_begin": "on_train_epoch_start on_epoch_start",
        "on_batch_begin": "on_train_batch_start on_batch_start on_before_zero_grad on_after_batch_transfer",
        "on_after_backward": "on_before_optimizer_step",
        "on_batch_end": "on_train_batch_end",
        "on_before_valid": "on_validation_start on_validation_epoch_start on_validation_model_eval",
        "on_batch_valid_begin": "on_validation_batch_start",
        "on_batch_valid_end": "on_validation_batch_end",
        "on_valid_end": "on_validation_epoch_end on_validation_end on_validation_model_train",
        "on_epoch_end": "on_train_epoch_end",
        "on_end": "on_train_end on_fit_end",
        "on_exit": "teardown on_exception on_keyboard_interrupt",
        "state_dict": "on_save_checkpoint",
        "load_state_dict": "on_load_checkpoint",
        "": "on_before_backward on_before_batch_transfer on_test_batch_end on_test_end",
    },
    "Keras": {
        "on_begin": "on_train_begin",
        "on_batch_begin": "on_train_batch_begin",
        "on_batch_end": "on_train_batch_end",
        "on_before_valid": "on_test_begin",
        "on_batch_valid_begin": "on_test_batch_begin",
        "on_batch_valid_end": "on_test_batch_end",
        "on_valid_end": "on_test_end",
        "on_end": "on_train_end",
    },
    "fastai": {
        "on_begin": "before_fit",
        "on_epoch_begin": "before_epoch before_train",
        "on_batch_begin": "before_batch",
        "on_after_backward": "before_step after_backward",
        "on_batch_end": "after_step after_cancel_step after_batch after_cancel_batch",
        "on_before_valid": "after_train after_cancel_train before_validate",
        "on_valid_end": "after_validate after_cancel_validate",
        "on_epoch_end": "after_epoch after_cancel_epoch",
        "on_end": "after_fit",
        "on_exit": "after_cancel_fit",
        "": "after_pred after_loss before_backward",
    },
    "Hugging Face": {
        "on_begin": "on_init_end on_train_begin",
        "on_batch_begin": "on_step_begin",
        "on_after_backward": "on_pre_optimizer_step",
        "on_batch_end": "on_optimizer_step on_substep_end on_step_end",
        "on_batch_valid_end": "on_prediction_step",
        "on_valid_end": "on_evaluate",
        "on_epoch_end": "on_log",
        "on_end": "on_train_end",
        "state_dict": "on_save",
    },
    "skorch": {"on_begin": "on_train_begin", "on_after_backward": "on_grad_computed", "on_end": "on_train_end"},
    "luz": {
        "on_begin": "on_fit_begin",
        "on_epoch_begin": "on_train_begin",
        "on_batch_begin": "on_train_batch_begin",
        "on_after_backward": "on_train_batch_before_step",
        "on_batch_end": "on_train_batch_after_step on_train_batch_end",
        "on_before_valid": "on_train_end on_valid_begin",
        "on_batch_valid_begin": "on_valid_batch_begin",
        "on_batch_valid_end": "on_valid_batch_after_pred on_valid_batch_after_loss on_valid_batch_end",
        "on_end": "on_fit_end",
        "on_exit": "on_interrupt",
        "": "on_train_batch_after_pred on_train_batch_after_loss on_train_batch_before_backward",
    },
    "Ignite": {
        "on_begin": "on_started",
        "on_epoch_begin": "on_epoch_started",
        "on_batch_begin": "on_get_batch_completed on_iteration_started",
        "on_batch_end": "on_iteration_completed",
        "on_epoch_end": "on_epoch_completed",
        "on_end": "on_completed",
        "on_exit": "on_terminate on_interrupt on_exception_raised",
        "": "on_get_batch_started",
    },
    "Composer": {
        "on_begin": "fit_start training_start",
        "on_epoch_begin": "epoch_start",
        "on_batch_begin": "batch_start after_dataloader before_train_batch",
        "on_after_backward": "after_backward after_train_batch",
        "on_before_valid": "eval_before_all eval_start",
        "on_batch_valid_begin": "eval_batch_start eval_before_forward",
        "on_batch_valid_end": "eval_after_forward eval_batch_end",
        "on_valid_end": "eval_end eval_after_all",
        "on_end": "fit_end training_end",
        "state_dict": "batch_checkpoint epoch_checkpoint",
        "": "before_dataloader before_forward after_forward before_loss after_loss before_backward",
    },
    "": {  # of no library, but similar in spelling to a stage that means something else
        "on_begin": "on_start on_training_begin",
        "on_after_backward": "on_backward on_backward_end on_gradients on_before_optimizer on_optimizer_step_begin",
        "on_before_valid": "on_val_begin on_val_start on_validation_begin on_validate_begin on_eval_begin",
        "on_batch_valid_begin": "on_val_batch_begin on_val_batch_start on_validation_batch_begin on_eval_batch_begin",
        "on_batch_valid_end": "on_val_batch_end",
        "on_valid_end": "on_val_end on_val_epoch_end on_validate_end on_evaluate_end",
        "on_end": "on_finish on_training_finish",
        "on_exit": "on_error on_failure on_finally",
    },
}
"""The hooks by library, and by the stage or method that corresponds to them; `""` for none.

The names are those of methods. An event that a library gives to a decorator has the name of a method here.
"""


def found(name: str) -> dict[str, list[str]]:
    """The stages that correspond to a hook, each with the libraries that have the hook.

    Args:
        name: The name of the hook. If no library has it, a leading `on_` is left out.
    """
    libraries: dict[str, list[str]] = {}
    for library, stages in _HOOKS.items():
        for stage, hooks in stages.items():
            if name in hooks.split():
                libraries.setdefault(stage, []).append(library)
    return libraries or (found(name.removeprefix("on_")) if name.startswith("on_") else {})


def hint(name: str) -> str:
    """` It is a hook of Keras; here it is 'on_end'.`, or an empty string for any other name."""
    text = ""
    for stage, libraries in found(name).items():
        if libraries == [""]:
            text += f" Did you mean {stage!r}?"
            continue
        here = f"it is {stage!r}" if stage else "no stage runs at that moment"
        text += f" It is a hook of {', '.join(libraries)}; here {here}."
    return text
