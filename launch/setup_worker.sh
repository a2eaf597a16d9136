#!/usr/bin/env bash
# Makes a TPU VM host ready for launch/worker.py: gcsfuse, Python 3.11, and the commit in
# ~/vlt.bundle as ~/vlt, installed with its TPU packages in ~/vlt-venv. Run it again for another commit.
#   bash setup_worker.sh [--dry-run]
set -euo pipefail
cd

step() {
  echo "$(hostname): $*"
  [ "$dry_run" = --dry-run ] || "$@"
}
dry_run=${1:-}

if [ -e vlt-run/lock ] && ! flock --nonblock vlt-run/lock true; then
  echo "$(hostname): a run is under way; stop it first" >&2
  exit 1
fi

if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  source="deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main"
  step sudo curl -fsSL --output "$key" https://packages.cloud.google.com/apt/doc/apt-key.gpg
  step sudo sh -c "echo '$source' > /etc/apt/sources.list.d/gcsfuse.list"
  # A host that has just started is still installing updates of its own.
  step sudo apt-get -o DPkg::Lock::Timeout=600 update --quiet
  step sudo apt-get -o DPkg::Lock::Timeout=600 install --quiet --yes gcsfuse
fi

step rm -rf vlt
step git clone --quiet vlt.bundle vlt
step python3 -m pip install --quiet --user uv
step python3 -m uv venv --quiet --allow-existing --python=3.11 vlt-venv
step python3 -m uv pip install --quiet --python=vlt-venv/bin/python --editable './vlt[tpu]'
