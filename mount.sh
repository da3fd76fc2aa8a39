#!/usr/bin/env bash
# Mounts a fake memory-hotplug sysfs; the first use also sets everything up (scripts/setup.sh).
set -eu

# the checkout, also when called through a symbolic link
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"

usage() {
    cat <<END
usage: ./mount.sh [MOUNTPOINT] [options of \`fakesysfs mount\`]
       ./mount.sh --unmount [MOUNTPOINT]

Mounts the fake at MOUNTPOINT and returns once it answers. The first use also sets everything up.
MOUNTPOINT is $checkout/mnt unless given, and is made if need be.
--unmount takes the mount away again, also one whose server has died.

example: ./mount.sh && cat mnt/sys/bus/dax/devices/dax0.0/hotplug
END
}

# One sentence and status 2 where FUSE can't work, before anything is set up for it.
need_fuse() {
    local why="" bounds
    if [[ ! -c /dev/fuse ]]; then
        why="/dev/fuse is missing"
    elif ! { : <>/dev/fuse; } 2>/dev/null; then
        why="/dev/fuse may not be opened by user $EUID (mode $(stat -c %a /dev/fuse))"
    else
        bounds=$(sed -n 's/^CapBnd:\t*//p' /proc/self/status)
        # bit 21 is CAP_SYS_ADMIN; without it neither root nor the setuid fusermount3 may mount
        if [[ -n $bounds ]] && ((!(0x$bounds >> 21 & 1))); then
            why="CAP_SYS_ADMIN is taken away"
        fi
    fi
    [[ -z $why ]] || die 2 "FUSE does not work here, because $why: start a container with \`docker run --device /dev/fuse \
--cap-add SYS_ADMIN ...\` (where the host has AppArmor, also \`--security-opt apparmor=unconfined\`); on a machine of your \
own, \`modprobe fuse\` loads the module and \`chmod 666 /dev/fuse\` lets everybody use it."
}

# Succeeds if a fake is mounted at PATH, dead ones included. Looks at the kernel's table only: a dead mount, or one that
# hangs, can't be looked at itself.
is_fake() { # PATH
    local point rest
    while read -r _ _ _ _ point rest; do
        # blanks are octal there; behind the dash stand the type, the source and the options
        if [[ $rest == *" - fuse.fakesysfs "* && $(printf '%b' "$point") == "$1" ]]; then
            return 0
        fi
    done </proc/self/mountinfo
    return 1
}

# stat(2) would not do: the host answers it from its cache long after the server has died.
is_dead() { # PATH
    [[ $(LC_ALL=C timeout 5 stat -f -- "$1" 2>&1 >/dev/null) == *"not connected"* ]]
}

unmount() { # PATH
    local error
    is_fake "$1" || say "no fake is mounted at $1"
    # once for each that was mounted over another
    while is_fake "$1"; do
        if error=$(LC_ALL=C fusermount3 -u -- "$1" 2>&1); then
            say "unmounted $1"
        elif is_dead "$1"; then
            fusermount3 -u -z -- "$1"
            say "unmounted $1, whose server had died; a process still has something of it open"
        elif [[ $error == *busy* ]]; then
            die 1 "$error: a process has something of it open or stands in it (\`fuser -vm\` names it), or something is mounted in it"
        else
            die 1 "$error"
        fi
    done
}

case ${1-} in
    -h | --help)
        usage
        if is_set_up base; then
            echo
            exec "$venv/bin/fakesysfs" mount --help
        fi
        exit 0
        ;;
    --unmount)
        if (($# > 2)) || [[ ${2-} == -* ]]; then
            usage >&2
            exit 2
        fi
        unmount "$(realpath -m -- "${2:-$checkout/mnt}")"
        exit
        ;;
    "" | -*)
        mountpoint=$checkout/mnt
        ;;
    *)
        mountpoint=$1
        shift
        ;;
esac

need_fuse
set_up base
# where a dead mount is, mkdir fails, and `fakesysfs mount` clears it; what else is there is for it to judge, too
if [[ ! -e $mountpoint ]] && ! error=$(mkdir -p -- "$mountpoint" 2>&1) &&
    ! is_fake "$(realpath -m -- "$mountpoint")"; then
    die 2 "$error"
fi
exec "$venv/bin/fakesysfs" mount "$mountpoint" "$@"
