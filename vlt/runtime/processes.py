"""Several processes as one run: how they find each other, agree, notice who is lost, and end.

Each process runs the same program over its own devices and its own share of the data. Only the
first one writes what exists once: metrics, results, tables, predictions.
"""

import hashlib
import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax
import numpy as np
from absl import logging
from jax._src import distributed as jax_distributed  # the only place to find its client
from jax.experimental import multihost_utils

# Variables in which clusters tell how many processes there are.
COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
WATCH_EVERY = 5.0  # seconds
COMMON_ERROR = 2.5 * WATCH_EVERY  # seconds in which the others may meet the same error
LONGEST_END = 3600.0  # seconds in which the first process may still be writing
ENDED = "vlt/ended"
PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"  # key by which JAX tells all of a SIGTERM
GO_ON = "the same command goes on from the last complete checkpoint"

_leaving = threading.Event()
_lost_seconds = 0.0


class DistributedError(RuntimeError):
    """Processes that do not find each other, or do not agree."""


def join(
    coordinator: str = "",
    count: int | None = None,
    index: int | None = None,
    join_seconds: int = 300,
    lost_seconds: int = 60,
) -> None:
    """Makes this process one of a run. Must be called before anything touches a device.

    Without a coordinator, JAX reads from the environment (TPU VMs, GKE, Slurm, MPI) who the others
    are; if that names none, nothing happens.

    Args:
        coordinator: HOST:PORT on which the first process listens.
        count: number of all processes; without a coordinator, what the environment must say.
        index: this process's, from 0.
        join_seconds: how long to wait for the others before the process ends with a message.
        lost_seconds: seconds without a sign of life after which a process is lost and all others
            end.

    Raises:
        DistributedError: values that do not fit each other or the environment.
    """
    given = _given(coordinator, count, index)
    _check_environment(count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Otherwise JAX aborts all processes, with a stack, before a message can say which is lost.
    jax.config.update("jax_enable_recoverability", True)
    timer = threading.Timer(join_seconds, _not_joined, (join_seconds,))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=2 * join_seconds,
            heartbeat_timeout_seconds=lost_seconds,
        )
        found = jax.process_count()
    except ValueError as error:
        if coordinator or "coordinator_address" not in str(error):
            raise DistributedError(f"{error} (--distributed=off starts without others)") from error
        found = 1  # the environment names no others
    except RuntimeError as error:
        raise DistributedError(f"{error} (--distributed=off starts without others)") from error
    finally:
        timer.cancel()
    if count not in (None, found):
        raise DistributedError(
            f"--process_count={count}, but there are {found} processes; leave it out, or give "
            "--coordinator and --process_index, too"
        )
    if found > 1:
        _start_watching(lost_seconds)


def _given(coordinator: str, count: int | None, index: int | None) -> dict[str, Any]:
    """Arguments of jax.distributed.initialize; none if the environment has to tell."""
    if not coordinator:
        if index is not None:
            raise DistributedError(f"--process_index={index} needs --coordinator=HOST:PORT, too")
        return {}
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise DistributedError(f"--coordinator={coordinator}: must be HOST:PORT")
    if count is None or index is None:
        raise DistributedError(
            f"--coordinator={coordinator} needs --process_count and --process_index, too"
        )
    if not 0 <= index < count:
        raise DistributedError(
            f"--process_index must be between 0 and {count - 1}, by --process_count={count}, got "
            f"{index}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _check_environment(count: int | None) -> None:
    for name in COUNTS:
        told = os.environ.get(name)
        if count is not None and told not in (None, str(count)):
            raise DistributedError(
                f"--process_count={count}, but the environment has {name}={told}"
            )


def _not_joined(seconds: float) -> NoReturn:
    """Ends the process with a message: JAX would abort it, and nothing else ends its waiting."""
    state = jax_distributed.global_state
    at = state.coordinator_address or "the coordinator"
    if state.service is None:
        text = f"no answer from {at} for {seconds:g} s: is the first process running there, the "
        text += "port open, and the number of processes the same for all?"
    else:
        text = f"at {at} not all of {state.num_processes} processes came within {seconds:g} s"
    end(text)


def end(text: str) -> NoReturn:
    """Ends this process with status 1, whatever its other threads are doing, and says why."""
    logging.error(text)
    logging.flush()
    print(f"error: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def _client() -> Any:
    return jax_distributed.global_state.client


def _start_watching(lost_seconds: float) -> None:
    global _lost_seconds
    _lost_seconds = lost_seconds
    threading.Thread(target=_watch, name="others", daemon=True).start()


def _watch() -> None:
    """Ends this process when another has ended or is lost; a collective would wait forever."""
    client, count = _client(), jax.process_count()
    while not _leaving.wait(WATCH_EVERY):
        try:
            alive = client.get_live_nodes(list(range(count)))
            reasons = dict(client.key_value_dir_get(ENDED))
        except jax.errors.JaxRuntimeError:
            return  # the first process is gone: JAX ends this one
        lost = sorted({*range(count)} - {*alive})
        if _leaving.is_set() or not (lost or reasons):
            continue
        told = [f"process {key.rpartition('/')[2]}: {text}" for key, text in reasons.items()]
        silent = f"process {', '.join(map(str, lost))} of {count} ended without a word, or was not "
        silent += f"heard of for {_lost_seconds:g} s"
        end(f"{'; '.join(told) or silent}. All processes stop; {GO_ON}")


def leave(error: BaseException | None = None) -> None:
    """Ends this process's part in the run, without leaving others to wait for it.

    After an error, the others are told of it. An error of a collective says only that some process
    is gone: `leave` waits until it is known which, and the process ends with a message about it.
    """
    if is_single_process():
        return
    client = _client()
    if error is not None and _is_of_collective(error):
        logging.error("another process seems to be gone: %s", error)
        time.sleep(_lost_seconds + 3 * WATCH_EVERY)
    _leaving.set()
    if error is not None:
        client.key_value_set(f"{ENDED}/{jax.process_index()}", str(error))
    seconds = LONGEST_END if error is None else COMMON_ERROR
    try:
        client.wait_at_barrier("vlt/end", int(1000 * seconds))
        _last_if_first(client)
    except jax.errors.JaxRuntimeError as failure:
        logging.info("not all processes end together: %s", failure)
    jax.distributed.shutdown()


def _last_if_first(client: Any) -> None:
    """Makes the first process wait until the others are gone: without it, they would abort."""
    deadline = time.monotonic() + COMMON_ERROR
    everyone = list(range(jax.process_count()))
    while is_primary() and time.monotonic() < deadline and len(client.get_live_nodes(everyone)) > 1:
        time.sleep(0.05)


def _is_of_collective(error: BaseException) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def is_single_process() -> bool:
    """Whether this process is the only one; touches no device to find out."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_primary() -> bool:
    """Whether this process is the one that writes and prints."""
    return is_single_process() or jax.process_index() == 0


def told_to_stop() -> bool:
    """Whether SIGTERM has come to any of several processes."""
    try:
        return bool(_client().key_value_try_get(PREEMPTED))
    except jax.errors.JaxRuntimeError:
        return False


def wait_for_all(name: str) -> None:
    """Returns when all processes have reached this point."""
    if not is_single_process():
        multihost_utils.sync_global_devices(name)


def broadcast_from_primary(value: int | None) -> int | None:
    """Returns the first process's value, None or at least 0, in all processes."""
    if is_single_process():
        return value
    found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if value is None else value)))
    return None if found < 0 else found


def total(value: int) -> int:
    """The sum over all processes."""
    if is_single_process():
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).sum())


def check_alike(what: str, value: str) -> None:
    """Raises DistributedError, in all processes, unless all have the same `value`."""
    if is_single_process():
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    found = multihost_utils.process_allgather(digest).reshape(-1, len(digest))
    if other := np.flatnonzero((found != found[0]).any(axis=1)).tolist():
        raise DistributedError(
            f"{what}: process {', '.join(map(str, other))} has another than the first process; all "
            "need the same"
        )
