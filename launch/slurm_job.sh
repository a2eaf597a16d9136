#!/usr/bin/env bash
# The batch script of launch/slurm.py: COMMAND as one task for each GPU, their outputs in FOLDER.
# Told that the time limit is near (USR1), it has the tasks save, and goes back into the queue.
#   sbatch OPTIONS launch/slurm_job.sh FOLDER COMMAND ...
#   launch/slurm_job.sh --dry-run FOLDER COMMAND ...
set -uo pipefail

prefix=()
if [ "$1" = --dry-run ]; then
  prefix=(echo)
  shift
fi
logs=$1
shift

requeue=false
# srun itself answers SIGTERM by killing its tasks; scancel tells them, and not this script.
trap 'requeue=true; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' TERM

# Without bound GPUs: JAX takes the one of its number among the node's.
"${prefix[@]}" srun --kill-on-bad-exit=1 --output="$logs/%j-%t.txt" --open-mode=append "$@" &
tasks=$!
# A trapped signal ends `wait` early.
while wait "$tasks"; status=$?; kill -0 "$tasks" 2>/dev/null; do :; done
if [ "$status" -gt 128 ]; then
  wait "$tasks"
  status=$?
fi

echo "$(date): tasks ended with status $status"
if $requeue && [ "$status" -eq 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
