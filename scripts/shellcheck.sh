#!/usr/bin/env bash
# Runs shellcheck on every shell script of the checkout: each file whose first line names bash or sh.
#
#     scripts/shellcheck.sh
set -eu

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts=()
while IFS= read -r -d '' file; do
    IFS= read -r -n 64 line <"$file" || continue
    if [[ $line =~ ^(\#\!.*[/ ](ba)?sh|\#\ shellcheck\ shell=.*)$ ]]; then
        scripts+=("$file")
    fi
done < <(find . \( -name '.?*' ! -name .ci -o -name mnt -o -name recordings -o -name __pycache__ -o -path ./site \) -prune \
    -o -type f -size -64k -print0)
exec .venv/bin/shellcheck --external-sources "${scripts[@]}"
