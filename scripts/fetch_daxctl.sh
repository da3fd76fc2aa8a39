#!/usr/bin/env bash
# Fetches the versions of daxctl that sessions were recorded with into a cache folder. It installs
# nothing.
#
#     scripts/fetch_daxctl.sh [VERSION...]     default: 85 76.1
#
# Skips what is installed or in the cache, ${XDG_CACHE_HOME:-~/.cache}/fakesysfs. There
# daxctl-VERSION/bin/daxctl starts a fetched one with its own C library, which may be newer or older
# than this system's. The packages come by apt from the mirror that this system uses, checked with
# Debian's keys; apt's lists and its cache are private ones.
#
# Where no suite has a version, the script fetches the next newer one, which can stand in for it. It
# looks for a missing version once a day: daxctl-VERSION-missing in the cache folder is the stamp.
# The status is 0 when all versions are there.
set -eu

suites=(unstable testing stable oldstable)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fakesysfs
keys=/usr/share/keyrings/debian-archive-keyring.gpg
missing=()          # the versions to look for
declare -A suite_of # by version: the suite that has it, of those that were read
work=""             # a folder for this run

say() {
    printf 'fakesysfs: %s\n' "$*" >&2
}

main() { # VERSION...
    local version status=0
    for version in "$@"; do
        if is_here "$version"; then
            continue
        elif failed_lately "$version"; then
            say "daxctl $version: the last attempt to fetch it failed less than a day ago;" \
                "rm $(stamp "$version") to try now"
            status=1
        else
            missing+=("$version")
        fi
    done
    ((${#missing[@]})) || exit "$status"

    umask 022
    mkdir -p "$cache"
    # at the start, because a fetch that hangs is killed
    for version in "${missing[@]}"; do
        : >"$(stamp "$version")"
    done
    trap 'forget_attempt; exit 130' INT
    trap 'rm -rf -- "$work"' EXIT
    work=$(mktemp -d "$cache/fetching.XXXXXX")

    look_for_all
    for version in "${missing[@]}"; do
        provide "$version" || status=1
    done
    exit "$status"
}

stamp() { # VERSION
    echo "$cache/daxctl-$1-missing"
}

failed_lately() { # VERSION
    [[ -n $(find "$(stamp "$1")" -mmin -1440 2>/dev/null) ]]
}

# shellcheck disable=SC2329 # a trap calls it
forget_attempt() {
    local version
    for version in "${missing[@]}"; do
        rm -f -- "$(stamp "$version")"
    done
}

is_here() { # VERSION
    [[ -x $cache/daxctl-$1/bin/daxctl || $(PATH=$PATH:/usr/sbin:/sbin daxctl --version 2>/dev/null) == "$1" ]]
}

give_up() { # SENTENCE
    local list
    printf -v list ' and %s' "${missing[@]}"
    say "daxctl ${list# and } cannot be fetched: $*"
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
    local command mirror suite package read_any=""
    for command in apt-get apt-cache dpkg-deb; do
        command -v "$command" >/dev/null || give_up "$command is missing"
    done
    [[ -r $keys ]] || give_up "$keys is missing"
    mirror=$(find_mirror)
    [[ -n $mirror ]] || give_up "apt knows no mirror: run apt-get update first"

    say "looking for daxctl ${missing[*]} at $mirror"
    for suite in "${suites[@]}"; do
        mkdir -p "$work/$suite"/{state,lists/partial,archives/partial}
        printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$mirror" "$suite" >"$work/$suite/sources.list"
        if ! private_apt "$suite" apt-get update --error-on=any >"$work/said" 2>&1; then
            continue
        fi
        read_any=yes
        for package in $(packages_in "$suite"); do
            : "${suite_of[$(upstream "$package")]:=$suite}"
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

# The versions of the package daxctl, Debian's revision included.
packages_in() { # SUITE
    private_apt "$1" apt-cache madison daxctl | cut -d '|' -f 2
}

upstream() { # PACKAGE_VERSION
    echo "${1%-*}"
}

are_all_found() {
    local version
    for version in "${missing[@]}"; do
        [[ -v suite_of[$version] ]] || return 1
    done
}

# Fetches a version, or the next newer one, which can stand in for it.
provide() { # VERSION
    local chosen
    chosen=$(this_or_newer "$1")
    if [[ -z $chosen ]]; then
        say "daxctl $1 is not in the archive and neither is a newer one (found: $(sorted "${!suite_of[@]}"))"
        return 1
    fi
    if [[ $chosen != "$1" ]]; then
        say "daxctl $1 is not in the archive: $chosen stands in for it"
    fi
    is_here "$chosen" || (fetch "$chosen") || return 1
    [[ $chosen == "$1" ]] || return 1
    rm -f -- "$(stamp "$1")"
}

this_or_newer() { # VERSION
    local version
    for version in $(sorted "${!suite_of[@]}"); do
        if [[ $(sorted "$1" "$version") == "$1 "* ]]; then
            echo "$version"
            return
        fi
    done
}

sorted() { # VERSION...
    printf '%s\n' "$@" | sort -V | xargs
}

# Runs in a subshell: what fails ends it.
fetch() { # VERSION
    local suite=${suite_of[$1]} at=$work/daxctl-$1 package wanted dependencies loader program
    say "fetching daxctl $1 of Debian $suite into $cache"
    for package in $(packages_in "$suite"); do
        [[ $(upstream "$package") != "$1" ]] || wanted=daxctl=$package
    done
    mapfile -t dependencies < <(
        private_apt "$suite" apt-cache depends --recurse \
            --no-{recommends,suggests,conflicts,breaks,replaces,enhances} daxctl | grep '^[a-z0-9]' | grep -vx daxctl
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
    program=$(find "$at/root" -type f -name daxctl -path '*/bin/*' -print -quit)
    [[ -n $loader && -n $program ]] || fail "$1" "its packages have changed"
    write_starter "$at" "$loader" "$program"
    [[ $("$at/bin/daxctl" --version) == "$1" ]] || fail "$1" "it does not run here"

    rm -rf -- "$at/packages"
    mv -T -- "$at" "$cache/daxctl-$1" 2>/dev/null || is_here "$1"
}

fail() { # VERSION SENTENCE
    say "daxctl $1 cannot be fetched: $2"
    exit 1
}

# The script that starts a fetched daxctl with its own libraries. The folder may be moved.
write_starter() { # FOLDER LOADER PROGRAM
    local libraries
    # shellcheck disable=SC2016 # the script that is written expands $here
    libraries=$(find "$1/root" -name 'lib*.so.*' -printf '$here/root/%P\n' | sed 's,/[^/]*$,,' | sort -u | paste -sd :)
    cat >"$1/bin/daxctl" <<-END
	#!/bin/sh
	here=\${0%/bin/daxctl}
	exec "\$here/${2#"$1/"}" --argv0 daxctl --library-path "$libraries" "\$here/${3#"$1/"}" "\$@"
	END
    chmod 755 "$1/bin/daxctl"
}

if (($# == 0)); then
    set -- 85 76.1
fi
main "$@"
