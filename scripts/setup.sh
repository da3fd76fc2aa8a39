# shellcheck shell=bash
# The set-up that mount.sh, tests/run and tests/replay share. They source this file and call
#
#     set_up base|test
#
# which returns at once when the checkout's .venv is up to date. Otherwise it installs what is missing: Debian's packages
# as root, on a terminal after a question, else it names the command; then a .venv with this package
# (`test`: and what the tests need). pyfuse3, which has to be compiled, is the distribution's own where that fits
# (Debian 13): then no compiler is needed.
#
# .venv/.set-up-{base,test}  stamps: for which pyproject.toml, at which path, that part of the .venv was finished.
# .venv.lock                 held (flock) by the one set-up at work and by the pip that it started, which may outlive it.
#                            Not empty: the set-up that wrote it did not finish, and the .venv is thrown away.

unset CDPATH # it would make `cd` print
checkout=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv
log=""    # what the steps say; a path of mktemp's
as_root=(env DEBIAN_FRONTEND=noninteractive)
[[ $EUID == 0 ]] || as_root=(sudo -n "${as_root[@]}")
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
    pyfuse3_links_lead_somewhere || return 1
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
    local extras=mount how=" (compiles pyfuse3: this may take a minute)"
    [[ $1 == base ]] || extras+=",$1"
    if link_pyfuse3; then
        how=", beside this system's pyfuse3"
    elif compgen -G "$venv/lib/python3*/site-packages/pyfuse3" >/dev/null; then
        how=""
    fi
    step "installing fakesysfs and what it needs into it$how" \
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --editable "${checkout}[$extras]"
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

# ---- the distribution's pyfuse3

# Links it into the .venv, and nothing else of the system: --system-site-packages would also bring versions of other
# packages that nothing was tested with, and their plugins for pytest. Links, not a copy: after an update of the package
# the links of its old version lead nowhere, and the set-up runs again. Fails where there is no such pyfuse3.
link_pyfuse3() {
    local site place
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    if ! pyfuse3_links_lead_somewhere; then
        find "$site" -maxdepth 1 -name '*pyfuse3*' -type l -delete
    fi
    place=$(system_pyfuse3) || return 1
    if [[ ! -e $site/pyfuse3 ]]; then
        ln -s -- "$place"/*pyfuse3* "$site/"
    fi
    [[ -L $site/pyfuse3 ]]
}

pyfuse3_links_lead_somewhere() {
    local link
    for link in "$venv"/lib/python3*/site-packages/*pyfuse3*; do
        [[ -e $link || ! -L $link ]] || return 1
    done
}

# Prints the folder that has a pyfuse3 of the version that a mount needs, for the Python below $python. Fails without.
system_pyfuse3() {
    local base
    base=$(readlink -f -- "$(command -v "$python")")
    PYTHONPATH=$checkout "$base" -s -P -B -c "$place_of_pyfuse3" 2>/dev/null
}

place_of_pyfuse3='
import pathlib, fakesysfs.fuse.mount
fakesysfs.fuse.mount.import_pyfuse3()
import pyfuse3
print(pathlib.Path(pyfuse3.__file__).parents[1])'

has_pyfuse3() {
    if [[ $python == "$venv/"* ]] && "$python" -c "import pyfuse3" 2>/dev/null; then
        return 0
    fi
    system_pyfuse3 >/dev/null
}

# Whether apt has one of the versions that pyproject.toml allows, for the python3 that is or would be here.
apt_offers_pyfuse3() {
    local candidate
    if [[ -n $python ]]; then
        [[ $(readlink -f -- "$(command -v "$python")") == "$(readlink -f /usr/bin/python3)" ]] || return 1
    elif command -v python3 >/dev/null; then
        return 1
    fi
    candidate=$(apt_candidate python3-pyfuse3)
    [[ $candidate =~ ^([0-9]+:)?3\.([4-9]|[1-9][0-9]) ]]
}

# The version that apt would install, or nothing.
apt_candidate() { # PACKAGE
    command -v apt-cache >/dev/null || return 0
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p'
}

# ---- system packages

provide_system_packages() {
    local missing packages=() has_new_lists=""
    # twice: the first round may bring a python3 that is too old, and so tell which other package to ask for
    for _ in 1 2; do
        find_missing
        [[ -n $missing ]] || return 0
        # images of containers have empty lists, which do not tell what apt offers; a person is asked first
        if can_install && ! asks && command -v apt-cache >/dev/null && [[ -z $(apt_candidate bash) ]]; then
            apt_update
            find_missing
        fi
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
    can_install || return 1
    if asks; then
        agrees "install with apt: $*?"
    fi
}

# Is there a person to be asked?
asks() {
    [[ ${CI-} != true && (-t 0 || -t 2) ]]
}

can_install() {
    [[ $(package_manager) == apt ]] || return 1
    [[ $EUID == 0 ]] || { [[ ${CI-} == true ]] && sudo -n true 2>/dev/null; }
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
    # pip has pyfuse3 as source only; once it is in the .venv nothing has to be compiled
    if [[ -n $python ]] && has_pyfuse3; then
        :
    elif apt_offers_pyfuse3; then
        missing+=", pyfuse3"
    else
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
        apt)
            packages=("python$version" "python$version-venv")
            case $missing in
                *gcc* | *pkg-config* | *headers*)
                    packages+=("python$version-dev" fuse3 libfuse3-dev gcc libc6-dev pkg-config)
                    ;;
                *pyfuse3*) packages+=(python3-pyfuse3 fuse3) ;;
                *) packages+=(fuse3) ;;
            esac
            ;;
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
    [[ -n ${has_new_lists-} ]] || apt_update
    step "installing with apt: $*" "${as_root[@]}" \
        apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@" 9>&-
}

# dpkg may have been interrupted; and a list that can't be fetched is no reason to give up, the others may do
apt_update() {
    step "asking apt for its lists" "${as_root[@]}" \
        bash -c "dpkg --configure -a; apt-get -o DPkg::Lock::Timeout=300 update || true" 9>&-
    has_new_lists=yes
}

# The versions of daxctl and cxl that sessions were recorded with, into a cache folder. Where a daxctl is missing, another
# one stands in.
fetch_tools() {
    command -v apt-get >/dev/null || return 0
    timeout 300 "$checkout/scripts/fetch_tools.sh" ||
        say "going on: the replay's summary names what it does not compare"
}
