#!/usr/bin/env bash
# Fetches the versions of daxctl and cxl that sessions were recorded with into a cache folder. It
# installs nothing.
#
#     scripts/fetch_tools.sh [TOOL-VERSION...]     default: daxctl-85 daxctl-76.1 cxl-85
#
# A tool is a Debian package that has a program of its name. Skips what is installed or in the
# cache, ${XDG_CACHE_HOME:-~/.cache}/fakesysfs. There TOOL-VERSION/bin/TOOL starts a fetched one
# with its own C library, which may be newer or older than this system's. The packages come by apt
# from the mirror that this system uses, checked with Debian's keys; apt's lists and its cache are
# private ones.
#
# Where no suite has a version, the script fetches the next newer one, which can stand in for it. It
# looks for a missing version once a day: TOOL-VERSION-missing in the cache folder is the stamp. The
# status is 0 when all versions are there.
set -eu

suites=(unstable testing stable oldstable)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fakesysfs
keys=/usr/share/keyrings/debian-archive-keyring.gpg
missing=()          # what to look for, as TOOL-VERSION
declare -A suite_of # by TOOL-VERSION: the suite that has it, of those that were read
work=""             # a folder for this run

say() {
    printf 'fakesysfs: %s\n' "$*" >&2
}

main() { # TOOL-VERSION...
    local wanted status=0
    for wanted in "$@"; do
        if is_here "$wanted"; then
            continue
        elif failed_lately "$wanted"; then
            say "$(in_words "$wanted"): the last attempt to fetch it failed less than a day ago;" \
                "rm $(stamp "$wanted") to try now"
            status=1
        else
            missing+=("$wanted")
        fi
    done
    ((${#missing[@]})) || exit "$status"

    umask 022
    mkdir -p "$cache"
    # at the start, because a fetch that hangs is killed
    for wanted in "${missing[@]}"; do
        : >"$(stamp "$wanted")"
    done
    trap 'forget_attempt; exit 130' INT
    trap 'rm -rf -- "$work"' EXIT
    work=$(mktemp -d "$cache/fetching.XXXXXX")

    look_for_all
    for wanted in "${missing[@]}"; do
        provide "$wanted" || status=1
    done
    exit "$status"
}

tool() { # TOOL-VERSION
    echo "${1%%-*}"
}

version() { # TOOL-VERSION
    echo "${1#*-}"
}

in_words() { # TOOL-VERSION
    echo "$(tool "$1") $(version "$1")"
}

stamp() { # TOOL-VERSION
    echo "$cache/$1-missing"
}

failed_lately() { # TOOL-VERSION
    [[ -n $(find "$(stamp "$1")" -mmin -1440 2>/dev/null) ]]
}

# shellcheck disable=SC2329 # a trap calls it
forget_attempt() {
    local wanted
    for wanted in "${missing[@]}"; do
        rm -f -- "$(stamp "$wanted")"
    done
}

is_here() { # TOOL-VERSION
    local installed
    [[ ! -x $cache/$1/bin/$(tool "$1") ]] || return 0
    installed=$(PATH=$PATH:/usr/sbin:/sbin version_by "$(tool "$1")")
    [[ $installed == "$(version "$1")" ]]
}

# The version that a program tells. cxl knows no --version.
version_by() { # PROGRAM
    case ${1##*/} in
        cxl) "$1" version 2>/dev/null ;;
        *) "$1" --version 2>/dev/null ;;
    esac || true
}

give_up() { # SENTENCE
    local list
    printf -v list ' and %s' "${missing[@]}"
    say "${list# and } cannot be fetched: $*"
    exit 1
}

# Runs a command of apt with lists, sources and cache of its own.
private_apt() { # SUITE COMMAND...
    local at=$work/$1 command=$2
    shift 2
    "$command" \
        -o "Dir::Etc::SourceList=$at/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o "Dir::State=$at/state" -o "Dir::State::Lists=$at/lists" -o Dir::State::status=/dev/null -o "Dir::Cache=$at" \
        -o Acquire::Languages=none -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Sandbox::User=root "$@"
}

# Reads one suite after another until all missing versions are found.
look_for_all() {
    local command mirror suite name package read_any=""
    for command in apt-get apt-cache dpkg-deb; do
        command -v "$command" >/dev/null || give_up "$command is missing"
    done
    [[ -r $keys ]] || give_up "$keys is missing"
    mirror=$(find_mirror)
    [[ -n $mirror ]] || give_up "apt knows no mirror: run apt-get update first"

    say "looking for ${missing[*]} at $mirror"
    for suite in "${suites[@]}"; do
        mkdir -p "$work/$suite"/{state,lists/partial,archives/partial}
        printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$mirror" "$suite" >"$work/$suite/sources.list"
        if ! private_apt "$suite" apt-get update --error-on=any >"$work/said" 2>&1; then
            continue
        fi
        read_any=yes
        for name in $(tools); do
            for package in $(packages_in "$suite" "$name"); do
                : "${suite_of[$name-$(upstream "$package")]:=$suite}"
            done
        done
        ! are_all_found || return 0
    done
    if [[ -z $read_any ]]; then
        tail -n 5 -- "$work/said" >&2
        give_up "no suite of $mirror can be read"
    fi
}

# The mirror of this system's own main component.
find_mirror() {
    local targets
    # shellcheck disable=SC2016 # apt expands these
    targets=$(apt-get indextargets --format '$(SITE) $(ORIGIN)' 'Created-By: Packages' 'Component: main')
    { grep ' Debian$' <<<"$targets" || echo "$targets"; } | cut -d ' ' -f 1 | sort | head -n 1
}

# The tools that are looked for, each once.
tools() {
    local wanted
    for wanted in "${missing[@]}"; do tool "$wanted"; done | sort -u
}

# The versions of a tool's package, Debian's revision included.
packages_in() { # SUITE TOOL
    private_apt "$1" apt-cache madison "$2" | cut -d '|' -f 2
}

upstream() { # PACKAGE_VERSION
    echo "${1%-*}"
}

are_all_found() {
    local wanted
    for wanted in "${missing[@]}"; do
        [[ -v suite_of[$wanted] ]] || return 1
    done
}

# Fetches a version, or the next newer one, which can stand in for it.
provide() { # TOOL-VERSION
    local chosen
    chosen=$(this_or_newer "$1")
    if [[ -z $chosen ]]; then
        say "$(in_words "$1") is not in the archive and neither is a newer one (found: $(found "$(tool "$1")"))"
        return 1
    fi
    if [[ $chosen != "$1" ]]; then
        say "$(in_words "$1") is not in the archive: $(version "$chosen") stands in for it"
    fi
    is_here "$chosen" || (fetch "$chosen") || return 1
    [[ $chosen == "$1" ]] || return 1
    rm -f -- "$(stamp "$1")"
}

this_or_newer() { # TOOL-VERSION
    local version wanted
    wanted=$(version "$1")
    for version in $(found "$(tool "$1")"); do
        if [[ $(sorted "$wanted" "$version") == "$wanted "* ]]; then
            echo "$(tool "$1")-$version"
            return
        fi
    done
}

# The versions of a tool in the suites that were read, the oldest first.
found() { # TOOL
    local there versions=()
    for there in "${!suite_of[@]}"; do
        [[ $(tool "$there") != "$1" ]] || versions+=("$(version "$there")")
    done
    sorted "${versions[@]}"
}

sorted() { # VERSION...
    printf '%s\n' "$@" | sort -V | xargs
}

# Runs in a subshell: what fails ends it.
fetch() { # TOOL-VERSION
    local suite=${suite_of[$1]} at=$work/$1 name package wanted dependencies loader program
    name=$(tool "$1")
    say "fetching $(in_words "$1") of Debian $suite into $cache"
    for package in $(packages_in "$suite" "$name"); do
        [[ $(upstream "$package") != "$(version "$1")" ]] || wanted=$name=$package
    done
    mapfile -t dependencies < <(
        private_apt "$suite" apt-cache depends --recurse \
            --no-{recommends,suggests,conflicts,breaks,replaces,enhances} "$name" | grep '^[a-z0-9]' | grep -vx "$name"
    )
    mkdir -p "$at"/{packages,root,bin}
    cd -- "$at/packages"
    if ! private_apt "$suite" apt-get download "$wanted" "${dependencies[@]}" >"$work/said" 2>&1; then
        tail -n 5 -- "$work/said" >&2
        fail "$1" "apt-get download failed"
    fi
    for package in *.deb; do
        dpkg-deb -x "$package" "$at/root" || fail "$1" "dpkg-deb failed"
    done

    loader=$(find "$at/root" -type f -name 'ld-linux*.so*' -print -quit)
    program=$(find "$at/root" -type f -name "$name" -path '*/bin/*' -print -quit)
    [[ -n $loader && -n $program ]] || fail "$1" "its packages have changed"
    write_starter "$at" "$loader" "$program"
    [[ $(version_by "$at/bin/$name") == "$(version "$1")" ]] || fail "$1" "it does not run here"

    rm -rf -- "$at/packages"
    mv -T -- "$at" "$cache/$1" 2>/dev/null || is_here "$1"
}

fail() { # TOOL-VERSION SENTENCE
    say "$(in_words "$1") cannot be fetched: $2"
    exit 1
}

# The script that starts a fetched program with its own libraries. The folder may be moved.
write_starter() { # FOLDER LOADER PROGRAM
    local libraries name=${3##*/}
    # shellcheck disable=SC2016 # the script that is written expands $here
    libraries=$(find "$1/root" -name 'lib*.so.*' -printf '$here/root/%P\n' | sed 's,/[^/]*$,,' | sort -u | paste -sd :)
    cat >"$1/bin/$name" <<-END
	#!/bin/sh
	here=\${0%/bin/$name}
	exec "\$here/${2#"$1/"}" --argv0 $name --library-path "$libraries" "\$here/${3#"$1/"}" "\$@"
	END
    chmod 755 "$1/bin/$name"
}

if (($# == 0)); then
    set -- daxctl-85 daxctl-76.1 cxl-85
fi
main "$@"
