#!/usr/bin/env bash
# All recipes of sasrec on a graphics card, side by side, in one command that always ends.
#
#   experiments/large/sasrec/card.sh [SECONDS] [OPTIONS]    SECONDS in all, 240 if left out
#
# It needs no installation: a Python with JAX and the source tree will do. PYTHON names the interpreter,
# OUT the folder of what comes out (./out/card), METAJAX_DATA the data sets. Every recipe is a process
# that keeps its part of the table when it is ready; what is not ready at its time is judged as it is.
# The same command again, with the same OPTIONS and OUT, reads the parts and makes those that are missing.
set -uo pipefail
cd "$(dirname "$0")/../../.."
total=${1:-240}
shift || true
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=${OUT:-out/card}
work=${WORK:-$(mktemp -d)}
mkdir -p "$out" "$work/parts"
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export METAJAX_HOME=${METAJAX_HOME:-$out/home} METAJAX_DATA=${METAJAX_DATA:-$PWD/../shared/data}
[ -f "$out/parts.tar.gz" ] && tar -xzf "$out/parts.tar.gz" -C "$work"
began=$SECONDS
left() { echo $((total - (SECONDS - began))); }
minutes=$(awk "BEGIN {m = ($total - 75) / 60; print (m > 0.2) ? m : 0.2}")
parts=${PARTS:-deep wide sasrec esasrec hstu gbce}
run() {
  local most=$1
  shift
  timeout --kill-after=5 "$most" "$python" -m experiments sasrec --preset gpu --minutes "$minutes" --out "$work" "$@"
}
keep() { tar -czf "$out/parts.tar.gz" -C "$work" parts; }

options=("$@")
JAX_PLATFORMS=cpu run $((total - 15)) --only simple "${options[@]}" > "$work/simple.log" 2>&1 &
for part in $parts; do
  run $((total - 15)) --only "$part" "${options[@]}" > "$work/$part.log" 2>&1 &
done
while [ -n "$(jobs -rp)" ] && [ "$(left)" -gt 12 ]; do sleep 2; keep; done
keep
ready=()
for part in $parts; do
  [ "$part" != sasrec ] && grep -q '^."arms"' "$work/parts/$part.jsonl" 2>/dev/null && ready+=("$part")
done
echo "ready: ${ready[*]}" | tee "$work/ready.log"
run 60 --also "${ready[@]}" "${options[@]}" 2>&1 | tee "$out/table.txt"
keep
cp "$work"/*.record "$work"/*.png "$out/" 2>/dev/null
tail -n 20 "$work"/*.log > "$out/logs.txt"
