#!/usr/bin/env bash
# On a machine with a GPU, in the root of the checkout, after `npm run gpu:pack` elsewhere:
#   bash test/gpu/run.sh test [WORDS…]    the tests, on the GPU where a test is for any device
#   bash test/gpu/run.sh bench [WORDS…]   the tables of bench/
#   bash test/gpu/run.sh node ARGS…       anything else
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
  node) exec node "$@" ;;
  *) echo "usage: test/gpu/run.sh test|bench|node …" >&2; exit 2 ;;
esac
