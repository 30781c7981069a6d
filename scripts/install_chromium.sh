#!/usr/bin/env bash
# Usage: bash scripts/install_chromium.sh
#
# Installs the system's Chromium for tests/test_report.py and tests/test_serve.py, where it is missing. Needs apt-get, and root
# or sudo. Nothing but those tests uses it.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
[[ $# -eq 0 ]] || fail "unknown argument $1; expected nothing"

if command -v chromium >/dev/null; then
  exit 0
fi
by_hand="install Chromium by hand, so that the command chromium is found"
command -v apt-get >/dev/null || fail "there is no apt-get to install Chromium with; $by_hand"
as_root=()
if [[ $(id -u) != 0 ]]; then
  command -v sudo >/dev/null || fail "installing Chromium needs root or sudo, and there is neither; $by_hand"
  as_root=(sudo)
fi

say "Chromium, for the tests of pages"
install() { ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get "$@" >/dev/null; }
install install -y --no-install-recommends chromium ||
  { install update && install install -y --no-install-recommends chromium; } ||
  fail "apt-get could not install Chromium (its message is above); check the network, or $by_hand"
