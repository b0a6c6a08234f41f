# shellcheck shell=bash
# Functions for the steps. A step begins with the line: . "$(dirname "$0")/../lib.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export MPLBACKEND=Agg PIP_DISABLE_PIP_VERSION_CHECK=1
python=.venv/bin/python
started=${CI_STARTED:-$(date +%s)} # set by .ci/run, like one folder for the reports of all steps
if [ -n "${CI_REPORTS:-}" ]; then
    reports=$CI_REPORTS
else
    reports=$(mktemp -d)
    trap 'rm -rf "$reports"' EXIT
fi

step() { printf '\n== %s (after %d s)\n' "$1" "$(($(date +%s) - started))"; }

# left_out REASON: say why a part cannot run on this machine; .ci/run repeats it at the end
left_out() { echo "left out: $1" | tee -a "$reports/left_out"; }

# extras NAME...: install optional dependencies of pyproject.toml into .venv, once
extras() { make --silent "${@/#/.venv/.}"; }

# tested NAME PYTEST_ARGUMENT...: run tests and write their results to NAME.xml, for counted
tested() {
    local name=$1
    shift
    "$python" -m pytest -q --junitxml="$reports/$name.xml" "$@"
}

# counted NAME LEAST [SKIPS_ALLOWED]: print the counts of NAME.xml; fail for a failure, too few tests, or a skip
counted() {
    "$python" - "$reports" "$1" "$2" "${3:-no}" <<'PYTHON'
import sys
from pathlib import Path
from xml.etree import ElementTree

folder, name, least, skips_allowed = sys.argv[1:]
suites = list(ElementTree.parse(Path(folder, f"{name}.xml")).getroot().iter("testsuite"))
total, skipped = (sum(int(suite.get(key)) for suite in suites) for key in ("tests", "skipped"))
failed = sum(int(suite.get(key)) for suite in suites for key in ("failures", "errors"))
passed = total - failed - skipped
Path(folder, f"{name}.count").write_text(f"{passed} {failed} {skipped}\n")
print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped")
if failed or passed < int(least) or (skipped and skips_allowed != "yes"):
    sys.exit(f"{name}: expected at least {least} passed, 0 failed" + ("" if skips_allowed == "yes" else ", 0 skipped"))
PYTHON
}

# python_of VERSION: print the path of that Python, or nothing if there is none
python_of() { compgen -G "$HOME/.pyenv/versions/$1.*/bin/python" | head -n 1 || command -v "python$1" || true; }

# build: make the wheel and the archive of the sources in the folder of the reports
build() {
    compgen -G "$reports/cks_numba-*.whl" >/dev/null && return
    extras core
    "$python" -m pip install --quiet "hatchling>=1.26"
    "$python" -m hatchling build -d "$reports"
}
