#!/usr/bin/env bash
# Mounts a fake memory-hotplug sysfs; the first use also sets everything up (scripts/setup.sh).
set -eu

# One sentence and status 1 where no server could start (fakesysfs/fuse/limits.py has the same
# numbers). Comes first and starts nothing: with such limits even `dirname` may not start.
need_limits() {
    local words soft hard why="" threads=0 thread
    exec 3</proc/self/limits
    while read -r -u 3 -a words; do
        case ${words[*]} in
            "Max open files"*)
                soft=${words[3]} hard=${words[4]}
                if [[ $hard != unlimited ]] && ((hard < 64)); then
                    why="$hard open files are too few: allow 64 or more (\`ulimit -n 64\`)"
                elif [[ $soft != unlimited ]] && ((soft < 64)); then
                    ulimit -S -n 64
                fi
                ;;
            "Max address space"*)
                soft=${words[3]}
                if [[ $soft != unlimited ]] && ((soft < 268435456)); then
                    why="$((soft / 1024)) KiB of memory are too little: allow 262144 or more"
                    why+=" (\`ulimit -v 262144\`)"
                fi
                ;;
            "Max processes"*)
                soft=${words[2]}
                # where bash may not fork it says so again and again for half a minute
                if ((EUID != 0)) && [[ $soft != unlimited ]] && ((soft < 1000)); then
                    for thread in /proc/[0-9]*/task/[0-9]*; do
                        [[ ! -O $thread ]] || threads=$((threads + 1))
                    done
                    if ((soft < threads + 5)); then
                        why="too few processes are allowed: a server takes 5 beside the $threads"
                        why+=" of user $EUID (\`ulimit -u\`)"
                    fi
                fi
                ;;
            *) ;;
        esac
    done
    exec 3<&-
    if [[ -n $why ]]; then
        exec >&2 # not for one command: that takes a descriptor more
        printf "fakesysfs: %s\n" "$why"
        exit 1
    fi
}

case ${1-} in
    -h | --help | --unmount) ;;
    *) need_limits ;;
esac

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
--unmount takes the mount away again unless a process uses it. A mount whose server has died is
taken away in any case.

example: ./mount.sh && cat mnt/sys/bus/dax/devices/dax0.0/hotplug
END
}

# One sentence and status 2 where FUSE can't work, before anything is set up for it. The words are those of
# fakesysfs/fuse/mount.py.
need_fuse() {
    local why="" bounds
    if [[ ! -c /dev/fuse ]]; then
        why="/dev/fuse is missing: load the module with \`modprobe fuse\`"
    elif ! { : <>/dev/fuse; } 2>/dev/null; then
        why="/dev/fuse may not be opened by user $EUID (mode $(stat -c %a /dev/fuse)): be root, or \`chmod 666 /dev/fuse\`"
    else
        bounds=$(sed -n 's/^CapBnd:\t*//p' /proc/self/status)
        # bit 21 is CAP_SYS_ADMIN; without it neither root nor the setuid fusermount3 may mount
        if [[ -n $bounds ]] && ((!(0x$bounds >> 21 & 1))); then
            why="CAP_SYS_ADMIN is taken away"
        fi
    fi
    [[ -z $why ]] || die 2 "FUSE does not work here: $why; in a container it takes \`docker run --device /dev/fuse \
--cap-add SYS_ADMIN\` (where the host has AppArmor, also \`--security-opt apparmor=unconfined\`)"
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

# What `fakesysfs umount` does. It needs nothing of the .venv, so that it works without one.
unmount() { # PATH
    find_python
    [[ -n $python ]] || die 1 "cannot look whether $1 is in use, because Python 3.11 or newer is missing: \
install it, or take the fake away with \`fusermount3 -u -z -- $(printf %q "$1")\`"
    PYTHONPATH=$checkout exec "$python" -P -B -m fakesysfs umount -- "$1"
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
        shift
        if [[ ${1-} == -- ]]; then
            shift
        elif [[ ${1-} == -* ]]; then
            usage >&2
            exit 2
        fi
        if (($# > 1)); then
            usage >&2
            exit 2
        fi
        unmount "${1:-$checkout/mnt}"
        ;;
    --)
        if (($# < 2)); then
            usage >&2
            exit 2
        fi
        mountpoint=$2
        shift 2
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
[[ $mountpoint != -* ]] || mountpoint=./$mountpoint
exec "$venv/bin/fakesysfs" mount "$mountpoint" "$@"
