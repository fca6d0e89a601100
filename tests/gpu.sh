#!/usr/bin/env bash
# What one GPU (or two) can prove, in under ten minutes: a table, and exit code 1 if a row fails. See tools/gpu_rows.py.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD:$PWD/tests/tools${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" tests/tools/gpu_rows.py "$@"
