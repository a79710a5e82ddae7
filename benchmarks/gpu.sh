#!/usr/bin/env bash
# Everything that a machine with an accelerator is asked for: the time of rounds and rules, the demo, the paper's MNIST and language model, and
# the test suite.
#
# usage: benchmarks/gpu.sh [OUT]      writes OUT/tests.log, OUT/demo/ and tables of round, aggregators and scaling (default: gpu-results)
#        QUICK=1 benchmarks/gpu.sh    the same steps at a reduced size, on any machine: does the script work?
# The store OUT/paper is resumable: call it again after a limit. Tiny Shakespeare is fetched, or read from $BYZJAX_TINY_SHAKESPEARE.
# Needs an environment with byzjax, its dev extra and a JAX that sees the accelerator; PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-gpu-results}
python=${PYTHON:-python3}
quick=${QUICK:+--quick}
mkdir -p "$out"

$python - "$quick" <<'EOF' || exit 2
import sys

import jax

device = jax.devices()[0]
print(f"jax {jax.__version__} on {device.device_kind}")
lacking = device.platform == "cpu" and not sys.argv[1]
raise SystemExit(lacking and "error: JAX sees no accelerator; install jax[cuda12] or jax[tpu], or set QUICK=1")
EOF

status=0
$python benchmarks/round.py $quick --no-peers --out "$out" || status=1
$python benchmarks/aggregators.py --no-peers ${quick:---dim 10000000} --out "$out" || status=1  # coordinate rules against a copy
$python benchmarks/scaling.py $quick --out "$out" || status=1
$python -m byzjax demo $quick --out "$out/demo" || status=1
# Table 1 of MNIST in the text's semantics; as released, the cells of Byz-NSGDM and of the baselines at the authors' rates.
reproduce() { $python -m byzjax reproduce "$@" $quick --store "$out/paper" --code-version gpu || status=1; }
reproduce mnist --variant paper
$python benchmarks/true_gradient.py "$out/paper" "$out/true" $quick || status=1
rates() { for rate in "$@"; do echo "--learning-rate $rate"; [ -z "$quick" ] || break; done; }
reproduce mnist --variant released --no-references --method Byz-NSGDM $(rates 0.1 0.2 0.5 1)
reproduce shakespeare --variant released --no-references --method Byz-NSGDM $(rates 0.5)
reproduce shakespeare --variant released --no-references --method Base $(rates 0.01 0.05 0.1)
reproduce mnist --variant released --no-references --method Base $(rates 0.001 0.002 0.005 0.01)
reproduce mnist --variant released --no-references --method Decay $(rates 0.005 0.01 0.1 0.2)
reproduce ablation --variant released --no-references
for store in paper true; do $python -m byzjax report "$out/$store" || status=1; done
$python -m pytest ${quick:+tests/test_rules.py} -q -p no:cacheprovider 2>&1 | tee "$out/tests.log" || status=1
exit $status
