# shellcheck shell=bash
# Shared by the scripts of tests/vm: where things are kept, and the ways to stop.

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck disable=SC2034  # used by the scripts that source this file
root=$(dirname "$(dirname "$here")")
cache=$(readlink -m "${VM_CACHE:-${CARGO_TARGET_DIR:-$root/target}/vm}")
# Of the VM; emulated like any other, so it need not be this machine's.
arch=${VM_ARCH:-$(uname -m)}
# What tests use besides busybox, where it is installed.
# shellcheck disable=SC2034  # used by the scripts that source this file
tools="runc crun podman conmon ip ps setpriv newuidmap newgidmap unshare prlimit nice getfattr setfattr apparmor_parser criu tar gzip script"
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

# is_foreign: whether the VM cannot run this machine's programs.
is_foreign() { [ "$arch" != "$(uname -m)" ]; }

# debian_arch: what Debian calls the VM's architecture.
debian_arch() {
    case $arch in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "VM_ARCH is $arch: there are VMs of x86_64 and of aarch64" ;;
    esac
}

# private_apt SUITE: has apt work on that suite, for the VM's architecture, with
# all its state in $tmp: the system's sources and packages are left as they are.
# It checks the signatures.
private_apt() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg debian
    debian=$(debian_arch) || exit
    [ -e $keyring ] || die "missing packages: debian-archive-keyring"
    mkdir -p "$tmp"/{lists,cache/archives}/partial
    echo "deb [arch=$debian signed-by=$keyring] $(mirror) $1 main" >"$tmp/sources.list"
    cat >"$tmp/apt.conf" <<APT
Dir::Etc::SourceList "$tmp/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::State::Lists "$tmp/lists";
Dir::State::Status "/dev/null";
Dir::Cache "$tmp/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Architecture "$debian";
APT::Architectures { "$debian"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT
    export APT_CONFIG=$tmp/apt.conf
    apt-get -qq update
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
