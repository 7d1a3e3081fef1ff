#!/usr/bin/env bash
# On a machine with a GPU, in the root of the checkout, after `npm run gpu:pack` elsewhere:
#   bash test/gpu/run.sh test [WORDS…]     the tests, on the GPU where a test is for any device
#   bash test/gpu/run.sh bench [WORDS…]    the tables of bench/
#   bash test/gpu/run.sh sanitize [WORDS…] the tests of the ops at small lengths, under each tool of compute-sanitizer
#   bash test/gpu/run.sh node ARGS…        anything else
set -euo pipefail
cd "$(dirname "$0")/../.."

python3 - <<'PY'
import glob, os, tarfile
for name in glob.glob('.carry/*.tar.xz'):
    done = name + '.unpacked'
    if not os.path.exists(done) or os.path.getmtime(done) < os.path.getmtime(name):
        with tarfile.open(name) as packed:
            packed.extractall('.', filter='fully_trusted')
        open(done, 'w').close()
PY
export PATH="$PWD/.carry:$PATH"

what=$1
shift
case $what in
  test) exec node --import tsx test/run.ts --device cuda "$@" ;;
  bench) exec node --import tsx bench/run.ts --device cuda "$@" ;;
  sanitize)
    export VL_MAMBA_TEST_DEVICE=cuda VL_MAMBA_TEST_LONGEST=65 LOGS=${OUT:-/tmp}/sanitize
    mkdir -p "$LOGS"
    check() {
      log="$LOGS/$1.$(basename "$2" .test.ts).log"
      timeout 400 compute-sanitizer --tool "$1" node --import tsx "$2" >"$log" 2>&1
      status=$?
      echo "$1 $(basename "$2" .test.ts): $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -1), exit $status"
    }
    export -f check
    files=$(ls test/ops/*.test.ts test/cuda/half.test.ts | grep -E "$(IFS='|'; echo "${*:-.}")")
    for tool in memcheck racecheck initcheck synccheck; do for file in $files; do echo "$tool $file"; done; done |
      xargs -P 12 -L 1 bash -c 'check "$0" "$1"'
    ;;
  node) exec node "$@" ;;
  *) echo "usage: test/gpu/run.sh test|bench|sanitize|node …" >&2; exit 2 ;;
esac
