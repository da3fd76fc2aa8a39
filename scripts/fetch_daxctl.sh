#!/usr/bin/env bash
# Fetches daxctl of Debian unstable, with which some sessions were recorded, into a cache folder. Nothing is installed.
#
#     scripts/fetch_daxctl.sh            ends at once if it is there already
#
# ${XDG_CACHE_HOME:-~/.cache}/fakesysfs/daxctl-VERSION/bin/daxctl starts it with its own C library, which may be newer
# than this system's. The packages come by apt from the mirror that this system uses, checked with Debian's keys; apt's
# lists and its cache are private ones.
set -eu

wanted=85
suite=unstable
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fakesysfs
keys=/usr/share/keyrings/debian-archive-keyring.gpg

say() {
    printf 'fakesysfs: %s\n' "$*" >&2
}

give_up() { # SENTENCE
    say "daxctl $wanted of Debian $suite cannot be fetched: $*"
    exit 1
}

[[ ! -x $cache/daxctl-$wanted/bin/daxctl ]] || exit 0
for command in apt-get apt-cache dpkg-deb; do
    command -v "$command" >/dev/null || give_up "$command is missing"
done
[[ -r $keys ]] || give_up "$keys is missing"

# The mirror of this system's own main component.
# shellcheck disable=SC2016 # apt expands these
mirror=$(apt-get indextargets --format '$(SITE) $(ORIGIN)' 'Created-By: Packages' 'Component: main' 'Origin: Debian' |
    sed -n 's/ Debian$//p' | sort | uniq | head -n 1)
# shellcheck disable=SC2016
[[ -n $mirror ]] || mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' | head -n 1)
[[ -n $mirror ]] || give_up "apt knows no mirror"

umask 022
mkdir -p "$cache"
work=$(mktemp -d "$cache/fetching.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,archives/partial,packages,root,bin}
printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$mirror" "$suite" >"$work/sources.list"
options=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o "Dir::State=$work/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$work"
    -o Acquire::Languages=none -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Sandbox::User=root
)
run() { # COMMAND...
    "$@" >"$work/said" 2>&1 || {
        tail -n 5 -- "$work/said" >&2
        give_up "$1 $2 failed"
    }
}

say "fetching daxctl $wanted of Debian $suite into $cache"
run apt-get update "${options[@]}"
version=$(apt-cache "${options[@]}" show --no-all-versions daxctl | sed -n 's/^Version: \([^-]*\).*/\1/p')
[[ $version == "$wanted" ]] || give_up "it has version ${version:-none}"
mapfile -t packages < <(
    apt-cache "${options[@]}" depends --recurse --no-{recommends,suggests,conflicts,breaks,replaces,enhances} daxctl |
        grep '^[a-z0-9]'
)
cd -- "$work/packages"
run apt-get download "${options[@]}" "${packages[@]}"
for package in *.deb; do
    dpkg-deb -x "$package" "$work/root"
done

loader=$(find "$work/root" -type f -name 'ld-linux*.so*' -print -quit)
program=$(find "$work/root" -type f -name daxctl -path '*/bin/*' -print -quit)
[[ -n $loader && -n $program ]] || give_up "its packages have changed"
cat >"$work/bin/daxctl" <<'END'
#!/bin/sh
here=${0%/bin/daxctl}
END
# shellcheck disable=SC2016 # the script that is written expands these
printf 'exec "$here/%s" --argv0 daxctl --library-path "$here/%s" "$here/%s" "$@"\n' \
    "${loader#"$work/"}" "$(dirname -- "${loader#"$work/"}")" "${program#"$work/"}" >>"$work/bin/daxctl"
chmod 755 "$work/bin/daxctl"
[[ $("$work/bin/daxctl" --version) == "$wanted" ]] || give_up "it does not run here"

rm -rf -- "$work"/{state,archives,packages,sources.list,said,*.bin}
chmod 755 "$work"
mv -T -- "$work" "$cache/daxctl-$wanted" 2>/dev/null || [[ -x $cache/daxctl-$wanted/bin/daxctl ]]
trap - EXIT
rm -rf -- "$work"
