#!/usr/bin/env bash
# What the first use of a clone takes on a fresh Debian: seconds and megabytes of `./mount.sh` and of
# `tests/run --version`, in this order. As root; ROOT is changed, so take a new one each time:
#
#     debootstrap trixie ROOT && benchmarks/install.sh ROOT
set -eu

if (($# != 1)) || [[ ! -x $1/usr/bin/apt-get ]]; then
    echo "usage: benchmarks/install.sh ROOT    (a root that debootstrap made)" >&2
    exit 2
fi
root=$(readlink -f -- "$1")
checkout=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/..
mkdir -p -- "$root/root/fakesysfs"
git -C "$checkout" archive HEAD | tar -x -C "$root/root/fakesysfs"
cp -- /etc/resolv.conf "$root/etc/resolv.conf"

# Runs in the root, whose shell expands it.
# shellcheck disable=SC2016
measure='
cd /root/fakesysfs
megabytes() { du -xsm --exclude=/root --exclude=/var/cache/apt --exclude=/var/lib/apt/lists / 2>/dev/null | cut -f 1; }
printf "%-22s system %5d MB\n" fresh "$(megabytes)"
for command in "./mount.sh" "tests/run --version"; do
    before=$(date +%s)
    $command </dev/null >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
    printf "%-22s system %5d MB, .venv %4d MB, %4d seconds\n" "$command" "$(megabytes)" \
        "$(du -sm .venv | cut -f 1)" "$(($(date +%s) - before))"
    [[ $command != ./mount.sh ]] || ./mount.sh --unmount
done'
# pivot_root and not chroot: mount tables have the paths of the root then. All mounts end with the namespace.
# shellcheck disable=SC2016
exec unshare --mount --propagation private bash -euc '
mount --bind "$1" "$1"
cd "$1"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
mkdir -p old
pivot_root . old
cd /
umount -l /old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 ${PIP_CERT:+PIP_CERT="$PIP_CERT"} bash -uc "$2"
' bash "$root" "$measure"
