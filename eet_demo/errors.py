"""One exception family: every error a visitor or caller can cause derives from `EetError`.

A message says what was given, what is supported and what to do; only the page and the command line turn it into words.
"""

from __future__ import annotations


class EetError(Exception):
    """Base of every error raised on purpose. `remedy` is the next step for whoever reads it on the page."""

    remedy = "Change what the message names and start again."


class RequestError(EetError, ValueError):
    """A request that no configuration could serve: an empty prompt, an id outside the vocabulary, too many rows."""


class UnsupportedError(EetError):
    """A model, dtype, device or option that this executor or machine lacks; the message names what there is."""

    remedy = "Pick one of the choices that the message names."


class DeviceMissingError(UnsupportedError):
    """The owner of this machine asked for a device that cannot run here; the message names what is missing."""

    remedy = "`python -m eet_demo doctor` lists what is missing; EET_DEMO_DEVICE=cpu races on the processor."


class EngineBusyError(EetError, RuntimeError):
    """A generation was asked of an engine that is already generating."""

    remedy = "Wait until the running race has ended."


class EngineClosedError(EetError, RuntimeError):
    """Something was asked of an engine that has been closed."""

    remedy = "Load the model again."


class MemoryPlanError(EetError, MemoryError):
    """More memory is needed than there is: by a plan, before anything is allocated, or beside it in a step."""

    remedy = "Choose a smaller model, context or batch."


class CheckpointError(EetError):
    """A model folder or file that cannot be read as a checkpoint: truncated, missing or misshapen tensors."""

    remedy = "Fetch the model again: python -m eet_demo fetch MODEL."


class CacheError(EetError):
    """The folder of what is downloaded, compiled and measured cannot be used; the message names its variable."""

    remedy = "Set the variable that the message names to a folder that can be written and has room, and start again."


class SourceError(EetError):
    """A model that cannot be fetched: no network, a wrong hash, an interrupted download."""

    remedy = "Try again when the source can be reached, or pick a model that is on this machine."


class KernelCompileError(EetError):
    """The C++ compiler is missing or refused a kernel; the message ends with the command that repeats it."""

    remedy = "Install a C++ compiler (Debian: apt-get install g++) and start again."


class CudaCompileError(KernelCompileError):
    """NVIDIA's compiler or its headers are missing, or it refused a kernel."""

    remedy = (
        "Install NVIDIA's run-time compiler (pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt) and "
        "start again. If it refused a kernel, please report the message."
    )


class KernelFaultError(EetError):
    """A kernel failed on the GPU, or the simulator found a mistake in one; the message names it."""

    remedy = "Start the race again: a fresh process is started for it. If it fails again, please report the message."


class NumericsError(EetError):
    """Weights or logits hold NaN or infinity; nothing is sampled from such logits. Debug mode names the op."""

    remedy = "Try float32 or bfloat16; run with the option debug=on to see which op produced it."


class WorkerError(EetError):
    """A worker process died or answered out of turn."""

    remedy = "Start the race again: a fresh worker process is started for it."


class StoppedError(EetError):
    """A race that ended before there was anything to show: stopped, out of time, or it lost its place in the queue."""

    remedy = "Start the race again."


class TraceError(EetError, ValueError):
    """A trace that does not follow the schema; the message names the first place that breaks it."""


class PortInUseError(EetError):
    """The page's port is already taken."""
