#!/bin/sh
# Installs the Debian packages of packages.txt that are missing. Usage: install.sh [--try] GROUP...   (groups: build mpi dev)
# --try: what cannot be installed is left out, and said so.
set -eu
here=$(dirname "$0")
if [ "${1:-}" = --try ]; then
  shift
  "$0" "$@" 2>/dev/null || echo "building without the packages of: $*" >&2
  exit 0
fi
missing=
for group in "$@"; do
  for p in $(sed -n "s/^$group \([a-z0-9.+-]*\).*/\1/p" "$here/packages.txt"); do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
  done
done
[ -n "$missing" ] || exit 0
sudo=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "missing packages, and neither root nor sudo to install them:$missing" >&2; exit 1; }
  sudo=sudo
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words on purpose
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
