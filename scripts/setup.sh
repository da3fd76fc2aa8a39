# shellcheck shell=bash
# The set-up that mount.sh, tests/run and tests/replay share. They source this file and call
#
#     set_up base|test
#
# which returns at once when the checkout's .venv is up to date. Otherwise it installs what is missing: Debian's packages
# as root, on a terminal after a question, else it names the command; then a .venv with this package
# (`test`: and what the tests need).
#
# .venv/.set-up-{base,test}  stamps: for which pyproject.toml, at which path, that part of the .venv was finished.
# .venv.lock                 held (flock) by the one set-up at work and by the pip that it started, which may outlive it.
#                            Not empty: the set-up that wrote it did not finish, and the .venv is thrown away.

unset CDPATH # it would make `cd` print
checkout=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv
log=""    # what the steps say; a path of mktemp's
python="" # the first Python that will do

say() {
    printf 'fakesysfs: %s\n' "$*" >&2
}

die() { # STATUS SENTENCE
    say "$2"
    exit "$1"
}

set_up() { # base|test
    if is_set_up "$1"; then
        return 0
    fi
    (make_set_up "$1")
}

# Starts no Python, no pip and no package manager: this is the way of every start but the first.
is_set_up() { # base|test
    local stamp
    [[ -r $venv/.set-up-$1 && -x $venv/bin/python ]] || return 1
    command -v fusermount3 >/dev/null || return 1
    stamp=$(<"$venv/.set-up-$1")
    [[ $stamp == "$(stamp_now)" ]]
}

# What a .venv depends on: the requirements, the Python it links to, and where it stands.
stamp_now() {
    sha256sum <"$checkout/pyproject.toml"
    readlink -f -- "$venv/bin/python"
    printf '%s\n' "$checkout"
}

# Runs in a subshell of its own: its traps, and the lock, end with it.
make_set_up() { # base|test
    if [[ ! -w $checkout || -e $checkout/.venv.lock && ! -w $checkout/.venv.lock ]]; then
        die 1 "$checkout is not set up for user $EUID, who may not write there: use a clone of your own"
    fi
    exec 9>>"$checkout/.venv.lock"
    if ! flock --nonblock 9; then
        say "waiting for another set-up of this checkout"
        flock 9
    fi
    if is_set_up "$1"; then
        return 0
    fi
    log=$(mktemp)
    trap 'rm -f -- "$log"' EXIT
    trap 'exit 130' INT

    if [[ -s $checkout/.venv.lock ]]; then
        say "the last set-up did not finish: starting over"
        drop_venv
    elif [[ -e $venv ]] && ! venv_is_usable; then
        say "$venv is broken or was made elsewhere: making it anew"
        drop_venv
    fi

    provide_system_packages

    echo "under way" >"$checkout/.venv.lock"
    rm -f -- "$venv"/.set-up-*
    if [[ ! -e $venv ]]; then
        step "making $venv" "$python" -m venv "$venv"
    fi
    local what=$checkout
    [[ $1 == base ]] || what+="[$1]"
    step "installing fakesysfs and what it needs into it (compiles pyfuse3: this may take a minute)" \
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --editable "$what"
    step "checking that pyfuse3 loads" "$venv/bin/python" -c "import pyfuse3"
    # pip does not for an editable package, and who starts it later may not be able (PYTHONDONTWRITEBYTECODE, another
    # user): without it every start compiles the sources anew, which takes longer than all the rest
    step "compiling fakesysfs to bytecode" "$venv/bin/python" -m compileall -q "$checkout/fakesysfs"
    stamp_now >"$venv/.set-up-base"
    if [[ $1 != base ]]; then
        stamp_now >"$venv/.set-up-$1"
    fi
    : >"$checkout/.venv.lock"
    say "set-up done"
}

# The stamps go first: whoever finds one may trust the rest.
drop_venv() {
    echo "under way" >"$checkout/.venv.lock"
    rm -f -- "$venv"/.set-up-*
    rm -rf -- "$venv"
}

venv_is_usable() {
    local stamp
    for stamp in "$venv"/.set-up-*; do
        if [[ -e $stamp && $(tail -n 1 -- "$stamp") != "$checkout" ]]; then
            return 1
        fi
    done
    "$venv/bin/python" -c "import sys, pip; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1
}

# One line while it runs, the command's own words only when it fails.
step() { # LINE COMMAND...
    local line=$1 status=0
    shift
    say "$line"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [[ $status != 0 ]]; then
        trap - EXIT
        tail -n 30 -- "$log" >&2
        die 1 "that failed ($1 ended with status $status); all that it said is in $log"
    fi
}

# ---- system packages

provide_system_packages() {
    local missing packages=()
    # twice: the first round may bring a python3 that is too old, and so tell which other package to ask for
    for _ in 1 2; do
        find_missing
        [[ -n $missing ]] || return 0
        name_packages
        may_install "${packages[@]}" || break
        apt_install "${packages[@]}"
    done
    find_missing
    [[ -n $missing ]] || return 0
    die 1 "missing on this system: $missing; install that first$(install_command "${packages[@]}")"
}

# Root may, and the user of a CI machine who can become root without being asked for a password. On a
# terminal the person there decides, but not in CI, which may give its jobs a terminal.
may_install() { # PACKAGE...
    [[ $(package_manager) == apt ]] || return 1
    if [[ ${CI-} == true ]]; then
        [[ $EUID == 0 ]] || sudo -n true 2>/dev/null
        return
    fi
    [[ $EUID == 0 ]] || return 1
    if [[ -t 0 || -t 2 ]]; then
        agrees "install with apt: $*?"
    fi
}

agrees() { # QUESTION
    local answer=""
    [[ -t 0 && -t 2 ]] || return 1
    printf 'fakesysfs: %s [y/N] ' "$1" >&2
    read -r answer || printf '\n' >&2
    [[ $answer == [yY]* ]]
}

# Sets $missing, empty when all is there, and $python.
find_missing() {
    missing=""
    find_python
    if [[ -z $python ]]; then
        missing+=", Python 3.11 or newer"
    elif [[ ! -e $venv ]] && ! "$python" -c "import ensurepip, venv" 2>/dev/null; then
        missing+=", $python's venv"
    fi
    command -v fusermount3 >/dev/null || missing+=", fusermount3"
    # pyfuse3 comes as source only; once it is in the .venv nothing has to be compiled
    if [[ -z $python ]] || ! "$python" -c "import pyfuse3" 2>/dev/null; then
        command -v gcc >/dev/null || missing+=", gcc"
        command -v pkg-config >/dev/null || missing+=", pkg-config"
        pkg-config --exists "fuse3 >= 3.2" 2>/dev/null || missing+=", libfuse3's headers"
        if [[ -n $python ]] && ! "$python" -c "$has_python_headers" 2>/dev/null; then
            missing+=", $python's headers"
        fi
    fi
    missing=${missing#, }
}

find_python() {
    local name
    for name in "$venv/bin/python" python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
            python=$name
            return
        fi
    done
    python=""
}

has_python_headers='import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'

# Sets $packages, by the names that this system's package manager knows. Where python3 is older than 3.11 but there is
# one (Ubuntu 22.04, RHEL 9, Leap 15), 3.11 stands beside it as a package of its own.
name_packages() {
    local version=3
    if [[ $python == python3.* ]]; then
        version=${python#python}
    elif [[ -z $python ]] && command -v python3 >/dev/null; then
        version=3.11
    fi
    case $(package_manager) in
        apt) packages=("python$version" "python$version-venv" "python$version-dev" fuse3 libfuse3-dev gcc libc6-dev pkg-config) ;;
        dnf) packages=("python$version" "python$version-devel" fuse3 fuse3-devel gcc pkgconf-pkg-config) ;;
        zypper) packages=("python${version/./}" "python${version/./}-devel" fuse3 fuse3-devel gcc pkg-config) ;;
        pacman) packages=(python fuse3 gcc pkgconf) ;;
        *) packages=() ;;
    esac
}

package_manager() {
    local command
    for command in apt-get dnf zypper pacman; do
        if command -v "$command" >/dev/null; then
            echo "${command%-get}"
            return
        fi
    done
    echo none
}

# ": COMMAND" as the user would type it, or nothing where no known package manager is.
install_command() { # PACKAGE...
    local sudo="sudo "
    [[ $EUID != 0 ]] || sudo=""
    case $(package_manager) in
        apt) echo ": ${sudo}apt-get install $*" ;;
        dnf) echo ": ${sudo}dnf install $*" ;;
        zypper) echo ": ${sudo}zypper install $*" ;;
        pacman) echo ": ${sudo}pacman -S --needed $*" ;;
        *) ;;
    esac
}

# apt locks for itself, and what a package starts must not hold our lock: 9>&-
apt_install() { # PACKAGE...
    local prefix=(env DEBIAN_FRONTEND=noninteractive)
    [[ $EUID == 0 ]] || prefix=(sudo -n "${prefix[@]}")
    # dpkg may have been interrupted; and a list that can't be fetched is no reason to give up, the others may do
    step "asking apt for its lists" "${prefix[@]}" \
        bash -c "dpkg --configure -a; apt-get -o DPkg::Lock::Timeout=300 update || true" 9>&-
    step "installing with apt: $*" "${prefix[@]}" \
        apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@" 9>&-
}
