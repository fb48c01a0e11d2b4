"""Scripts that run in processes of their own: `python -m tests.scripts.<name>`."""

import atexit

import torch.distributed as dist


def leave_process_group() -> None:
    """Ends gloo's threads while Python is still there: one that frees a tensor later aborts the whole process.

    Lightning does so for nccl alone, torch not at all: https://github.com/pytorch/pytorch/pull/179291.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


atexit.register(leave_process_group)  # here, so that processes which a script spawns do so as well
