#!/usr/bin/env bash
# Every check of the project on a graphics card, in one command that always ends and keeps what it has.
#
#   experiments/speed/device.sh [SECONDS]      SECONDS in all, 560 if left out
#
# The exit status is not 0 if a part failed or did not end within its time; summary.txt says which. The
# training of the published schedule (omniglot) is stopped when the time is over, and gone on from.
# It needs no installation: a Python with JAX (and PyTorch, for the peers) and the source tree will do.
# PYTHON names the interpreter, OUT the folder of what comes out (./out/device), METAJAX_DATA the data
# sets; a part without its data is left out and says so. An archive omniglot.tar.gz in OUT, or named by
# RESUME, is gone on from. PARTS names the parts to run, all if left out: benchmark and rate have the card
# to themselves, then the others share it. METAJAX_COMMIT is the commit of a tree without its history.
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
out=$(cd "$out" && pwd)
work=$(mktemp -d)
mkdir "$work/status"
parts=" ${PARTS:-benchmark rate omniglot pair ml_1m precision contract} "
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
export METAJAX_HOME=$work/home
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} METAJAX_DATA=${METAJAX_DATA:-$PWD/../shared/data}

say() { echo "$*" | tee -a "$out/summary.txt"; }

# wanted PART [DATA]: whether a part is to run; one whose data set is not there is said to be left out
wanted() {
  [[ $parts == *" $1 "* ]] || return 1
  [ -z "${2:-}" ] || [ -d "$METAJAX_DATA/$2" ] || { say "$1: left out, no $2 in $METAJAX_DATA"; return 1; }
}

# part NAME SECONDS COMMAND...: runs it for so long at most, output in a log, its end in the summary, and
# copies its records from $work/NAME before anything else begins
part() {
  local name=$1 most=$2 start=$SECONDS status
  shift 2
  if [ "$most" -lt 1 ]; then
    echo 124 > "$work/status/$name"
    say "$name: no time left"
    return
  fi
  echo "== $name, for $most s at most"
  timeout --kill-after=10 "$most" "$@" > "$work/$name.log" 2>&1
  status=$?
  keep "$name"
  echo "$status" > "$work/status/$name"
  say "$name: exit $status after $((SECONDS - start)) s (124: stopped at its time)"
}

# keep NAME: what a part has written of records, in a folder of its name
keep() {
  [ ! -d "$work/$1" ] || (cd "$work" && find "$1" -name '*.record' -exec cp --parents -t "$out" {} +)
}

pack() { tar -czf "$out/omniglot.tar.gz" -C "$work" omniglot; }

# train PART SECONDS: the published schedule; stopped at its time it has not failed if it goes on later
train() {
  part "$1" "$2" "$python" -m experiments omniglot --arms maml --preset gpu --ways 20 --shots 1 \
    --out "$work/omniglot"
  if [ "$(cat "$work/status/$1")" = 124 ] && [ -n "$(ls "$work/omniglot")" ]; then
    echo 0 > "$work/status/$1"
  fi
  keep omniglot
  pack
}

rate() {
  train rate "$1"
  "$python" - "$work/omniglot" >> "$out/summary.txt" << 'END'
import json, pathlib, sys
files = pathlib.Path(sys.argv[1]).glob("*.jsonl")
lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
for one, two in list(zip(lines, lines[1:]))[-3:]:
    step = 1e3 * (two["seconds"] - one["seconds"]) / (two["step"] - one["step"])
    print(f"  {two['arm']}: {step:.2f} ms a step and its look at validation, to step {two['step']}")
END
}

# both NAME SECONDS METRIC CONDITION COMMAND...: the command in both precisions, and how far they differ
both() {
  local name=$1 most=$2 metric=$3 condition=$4 how jobs=()
  shift 4
  for how in float32 bfloat16; do
    part "$name-$how" "$most" "$@" --compute "$how" --out "$work/$name-$how" &
    jobs+=($!)
  done
  wait "${jobs[@]}"
  part "$name-difference" 60 "$python" -m metajax.results compare "$out/$name-float32" \
    "$out/$name-bfloat16" --metric "$metric" --condition "$condition" --reference MAML
  cp "$work/$name-difference.log" "$out/$name-difference.txt"
}

contract() {
  local spread=() tests=(tests/test_contract.py tests/decide/test_contract.py)
  tests+=(tests/online/test_online_contract.py tests/test_precision.py)
  "$python" -c 'import xdist' 2> "$work/xdist.log" && spread=(-n 8 --dist loadgroup)
  part contract "$1" env JAX_COMPILATION_CACHE_DIR="$work/cache" "$python" -m pytest -v -m '' \
    -p no:cacheprovider -p no:benchmark --tb=short "${spread[@]}" "${tests[@]}"
  say "  contract: $(grep -c PASSED "$work/contract.log") tests passed"
  grep -E '^(FAILED|ERROR)|passed|failed' "$work/contract.log" | tail -n 60 >> "$out/summary.txt"
}

# finish: the logs, the summary, and whether all is well; also where the whole script is stopped from outside
finish() {
  local name bad=()
  trap - EXIT TERM INT
  for name in $(ls "$work/status"); do
    [ "$(cat "$work/status/$name")" = 0 ] || bad+=("$name")
  done
  for name in $(ls "$work"); do keep "$name"; done
  pack
  (cd "$work" && tar -czf "$out/logs.tar.gz" $(find . -maxdepth 2 -name '*.log' -o -path ./home/ledger))
  rm -rf "$work"
  say "all of it took $((SECONDS - began)) s; ${#bad[@]} parts failed: ${bad[*]:-none}"
  cat "$out/summary.txt"
  exit $((${#bad[@]} > 0 || $1 > 0))
}
trap 'finish $?' EXIT
trap 'kill $(jobs -p); finish 1' TERM INT

date -u > "$out/summary.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >> "$out/summary.txt" \
  2> "$work/nvidia-smi.log"
old=${RESUME:-$out/omniglot.tar.gz}
[ ! -f "$old" ] || tar -xzf "$old" -C "$work"
mkdir -p "$work/omniglot"

if wanted benchmark; then
  minutes=$(awk "BEGIN {print $total / 150}")
  part benchmark $((total * 2 / 5 + 20)) "$python" -m experiments benchmark --device gpu --peers --quick \
    --minutes "$minutes" --out "$work/benchmark" &
  wait
fi
if wanted rate omniglot; then
  rate $((total / 8)) &
  wait
fi
rest=$(($(left) - 90))
omniglot=(-m experiments omniglot --arms maml --preset gpu --ways 5 --shots 1 --steps 3000)
movies=(-m experiments maml --dataset ml-1m --redraw --split-seed 77 --preset gpu --seeds 3 --num-steps 2000)
wanted omniglot omniglot && train omniglot "$rest" &
wanted pair omniglot && both pair "$rest" accuracy test "$python" "${omniglot[@]}" &
wanted ml_1m ml-1m && both ml_1m "$rest" mae all "$python" "${movies[@]}" &
wanted precision && part precision "$rest" "$python" -m experiments.speed.precision --out "$work/precision" &
wanted contract && contract $((rest + 30)) &
wait
