#!/usr/bin/env bash
# Everything that a machine with an accelerator is asked for: the test suite, the demo, and the time of rounds and rules.
#
# usage: benchmarks/gpu.sh [OUT]      writes OUT/tests.log, OUT/demo/ and tables of round, aggregators and scaling (default: gpu-results)
# Needs an environment with byzjax, its dev extra and a JAX that sees the accelerator; PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-gpu-results}
python=${PYTHON:-python3}
mkdir -p "$out"

$python - <<'EOF' || exit 2
import jax
device = jax.devices()[0]
print(f"jax {jax.__version__} on {device.device_kind}")
raise SystemExit(device.platform == "cpu" and "error: JAX sees no accelerator; install jax[cuda12] or jax[tpu]")
EOF

status=0
$python benchmarks/round.py --no-peers --out "$out" || status=1
$python benchmarks/aggregators.py --no-peers --dim 10000000 --out "$out" || status=1  # coordinate rules against a copy
$python benchmarks/scaling.py --out "$out" || status=1
$python -m byzjax demo --out "$out/demo" || status=1
$python -m pytest -q -p no:cacheprovider 2>&1 | tee "$out/tests.log" || status=1
exit $status
