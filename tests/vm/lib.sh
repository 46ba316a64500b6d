# shellcheck shell=bash
# Shared by the scripts of tests/vm: where things are kept, and the ways to stop.

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck disable=SC2034  # used by the scripts that source this file
root=$(dirname "$(dirname "$here")")
cache=$(readlink -m "${VM_CACHE:-${CARGO_TARGET_DIR:-$root/target}/vm}")
PATH=$PATH:/usr/sbin:/sbin # mke2fs, debugfs and debootstrap live there

# 125 means "the VM could not be used", as with env(1) and docker run: no
# command's own status is mistaken for it.
die() {
    echo "vm: $*" >&2
    exit 125
}

# need COMMAND:PACKAGE...: names all missing packages at once; installs nothing.
need() {
    local pair missing=' '
    for pair; do
        command -v "${pair%%:*}" >/dev/null || case $missing in
        *" ${pair#*:} "*) ;;
        *) missing+="${pair#*:} " ;;
        esac
    done
    [ "$missing" = ' ' ] || die "missing packages:${missing% } (\`scripts/need vm\` installs them, as root)"
}

# mirror: the Debian mirror that apt uses here, or the public one.
mirror() {
    local url
    # shellcheck disable=SC2016  # $(SITE) is for apt to expand
    url=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
        grep -v security | head -n 1)
    echo "${url:-http://deb.debian.org/debian}"
}

# scratch NAME: sets `tmp` to a directory in the cache that goes away with the
# script, and takes a lock of that name, so that only one script makes NAME.
scratch() {
    mkdir -p "$cache" || die "cannot make $cache"
    exec 9>"$cache/.$1.lock"
    flock 9 || die "cannot lock $cache/.$1.lock"
    tmp=$(mktemp -d "$cache/.$1.XXXXXX") || die "no scratch directory in $cache"
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 125' HUP INT TERM
    chmod 755 "$tmp"
}
