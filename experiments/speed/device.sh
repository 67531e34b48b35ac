#!/usr/bin/env bash
# Every check of the project on a graphics card, in one command that always ends and leaves what it has.
#
#   experiments/speed/device.sh [SECONDS]      SECONDS in all, 560 if left out
#
# It needs no installation: a Python with JAX (and PyTorch, for the peers) and the source tree will do.
# PYTHON names the interpreter, OUT the folder of what comes out (./out/device), METAJAX_DATA the data
# sets; what has no data is left out. An archive omniglot.tar.gz in OUT or named by RESUME is gone on
# from. PARTS names the parts to run, all if left out: benchmark has the card to itself, then omniglot,
# ml_1m, precision and contract share it. METAJAX_COMMIT is the commit of a tree without its history.
# MovieLens is divided anew, so that its published test tasks stay closed; the ledger of what is
# opened comes back with the logs.
set -uo pipefail
cd "$(dirname "$0")/../.."
total=${1:-560}
began=$SECONDS
left() { echo $((total - (SECONDS - began))); }
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=${OUT:-out/device}
mkdir -p "$out"
work=$(mktemp -d)
parts=" ${PARTS:-benchmark omniglot ml_1m precision contract} "
wanted() { [[ $parts == *" $1 "* ]]; }
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
export METAJAX_HOME=$work/home
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} METAJAX_DATA=${METAJAX_DATA:-$PWD/../shared/data}
data=$METAJAX_DATA

# part NAME SECONDS COMMAND...: runs it for so long at most, its output in a log, its end in the summary
part() {
  local name=$1 most=$2 start=$SECONDS
  shift 2
  echo "== $name, for $most s at most"
  timeout --kill-after=10 "$most" "$@" > "$work/$name.log" 2>&1
  echo "$name: exit $? after $((SECONDS - start)) s (124: stopped at its time)" | tee -a "$out/summary.txt"
}

omniglot() {
  mkdir -p "$work/omniglot"
  local old=${RESUME:-$out/omniglot.tar.gz}
  [ -f "$old" ] && tar -xzf "$old" -C "$work"
  part omniglot "$1" "$python" -m experiments omniglot --arms maml --preset gpu --ways 20 --shots 1 --out "$work/omniglot"
  tar -czf "$out/omniglot.tar.gz" -C "$work" omniglot
  cp "$work"/omniglot/*.record "$out/" 2>/dev/null
  tail -n 2 "$work"/omniglot/*.jsonl >> "$out/summary.txt" 2>/dev/null
}

ml_1m() {
  local how
  for how in float32 bfloat16; do
    part "ml-1m-$how" "$1" "$python" -m experiments maml --dataset ml-1m --redraw --split-seed 77 --preset gpu \
      --seeds 3 --num-steps 2000 --compute "$how" --out "$work/ml-1m-$how" &
  done
  wait
  for how in float32 bfloat16; do cp "$work/ml-1m-$how/maml-ml-1m.record" "$out/maml-ml-1m-$how.record"; done 2>/dev/null
}

precision() {
  part precision "$1" "$python" -m experiments.speed.precision --out "$work/speed"
  cp "$work/speed/speed-precision.record" "$out/" 2>/dev/null
}

contract() {
  local spread=()
  "$python" -c 'import xdist' 2>/dev/null && spread=(-n 6 --dist loadgroup)
  part contract "$1" env JAX_COMPILATION_CACHE_DIR="$work/cache" "$python" -m pytest -q -p no:cacheprovider -p no:benchmark --tb=short "${spread[@]}" tests/test_contract.py tests/test_precision.py
  grep -E '^(FAILED|ERROR)|passed|failed' "$work/contract.log" | tail -n 60 >> "$out/summary.txt"
}

date -u > "$out/summary.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >> "$out/summary.txt" 2>/dev/null
if wanted benchmark; then
  part benchmark $((total * 2 / 5 + 20)) "$python" -m experiments benchmark --device gpu --peers --quick --minutes "$(awk "BEGIN {print $total * 2 / 5 / 60}")" --out "$work/speed"
  cp "$work/speed/speed-card.record" "$out/" 2>/dev/null
fi

rest=$(($(left) - 30))
wanted omniglot && [ -d "$data/omniglot" ] && omniglot "$rest" &
wanted ml_1m && [ -d "$data/ml-1m" ] && ml_1m "$rest" &
wanted precision && precision "$rest" &
wanted contract && contract "$rest" &
wait

tail -n 40 "$work"/ml-1m-*.log "$work/precision.log" "$work/benchmark.log" 2>/dev/null
tar -czf "$out/logs.tar.gz" -C "$work" $(cd "$work" && ls -d ./*.log home/ledger 2>/dev/null)
cat "$out/summary.txt"
rm -rf "$work"
echo "all of it took $((SECONDS - began)) s; results are in $out"
