#!/bin/sh
# Sets Torchkiln up where there is no network, from a bundle: load BUNDLE FOLDER
set -eu

python=@PYTHON@ # the one that the wheels of Torchkiln's requirements are for

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -eq 1 ] || printf '\nhint: %s\n' "$2" >&2
    exit "${3:-15}"
}

[ $# -eq 2 ] || fail "give a bundle and a folder that is not there yet" "$0 BUNDLE FOLDER" 2
bundle=$(readlink -f -- "$1")
folder=$2
[ ! -e "$folder" ] || fail "there is something already: $folder" "'$folder/kiln' load-bundle '$bundle'" 2
TORCHKILN_PYTHON=${TORCHKILN_PYTHON:-$python}
export TORCHKILN_PYTHON
command -v "$TORCHKILN_PYTHON" >/dev/null ||
    fail "there is no Python $python, which the wheels in this bundle are for" \
        "TORCHKILN_PYTHON=/path/to/$python $0 $*" 10

work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
# By name, so that whatever else may be in the file stays there until `load-bundle` has looked.
tar -xf "$bundle" -C "$work" SHA256SUMS torchkiln.tar requirements ||
    fail "this is no whole bundle: $bundle" "copy it again"
(cd -- "$work" && grep -E '  (torchkiln\.tar|requirements/[^/]+)$' SHA256SUMS | sha256sum -c - >/dev/null) ||
    fail "this is not the bundle that was written: $bundle" "copy it again"
mkdir "$work/torchkiln"
tar -xf "$work/torchkiln.tar" -C "$work/torchkiln"
mv "$work/requirements" "$work/torchkiln/envs/kiln/wheels"
mv "$work/torchkiln" "$folder"

"$folder/kiln" load-bundle "$bundle"
