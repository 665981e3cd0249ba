#!/bin/sh
# Restores this backup without Howdah: sha256sum, zstd, tar, PostgreSQL, and age where it is encrypted.
#
#   sh restore.sh --check                       checks every file, and that is all
#   sh restore.sh --target DIR [OPTION...]      checks every file and unpacks a data directory
#     --identity FILE                           age's private key, for files that end in .age
#     --tablespace OLD=NEW                      puts a tablespace elsewhere; once for each
#
# Run it as the user that the server runs as (postgres). DIR and the folders of tablespaces must be
# empty or missing. WAL is inside: the server recovers to the end of the backup when it is started.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
target='' identity='' check='' moves=''
newline='
'
fail() { echo "restore.sh: $*" >&2 && exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --check) check=yes ;;
    --target) target=${2:?"--target needs a folder"} && shift ;;
    --identity) identity=$(realpath -- "${2:?"--identity needs a file"}") && shift ;;
    --tablespace) moves="$moves${2:?"--tablespace needs OLD=NEW"}$newline" && shift ;;
    *) fail "there is no option $1: see the head of this file" ;;
  esac
  shift
done
[ -n "$check$target" ] || fail "say where to: --target DIR"

cd -- "$here"
echo "checking every file" >&2
sha256sum --check --quiet --strict SHA256SUMS
[ -z "$check" ] || { echo "every file is as it was written" >&2 && exit 0; }

is_free() { [ ! -e "$1" ] || { [ -d "$1" ] && [ -z "$(ls -A -- "$1")" ]; }; }
make() { # FOLDER
  is_free "$1" || fail "$1 is not empty"
  mkdir -p -- "$1" && chmod 700 -- "$1"
}

# A pipe's exit code is that of its last program only, so each of the others leaves a mark when it fails.
marks=$(mktemp -d) && trap 'rm -rf -- "$marks"' EXIT
plain() { # NAME without endings: its bytes
  if [ -e "$1.zst" ]; then
    zstd -dcq -- "$1.zst" || : >"$marks/failed"
    return 0
  fi
  [ -n "$identity" ] || { : >"$marks/failed" && echo "it is encrypted: give --identity FILE" >&2 && return 0; }
  { age --decrypt --identity "$identity" -- "$1.zst.age" || : >"$marks/failed"; } |
    { zstd -dcq || : >"$marks/failed"; }
}
unpack() { # NAME FOLDER
  echo "unpacking $1 into $2" >&2
  plain "$1" | tar -xpf - -C "$2" || : >"$marks/failed"
  [ ! -e "$marks/failed" ] || fail "$1 could not be unpacked: what is in $2 is not whole"
}

make "$target"
unpack base.tar "$target"
chmod 700 -- "$target"

map=$target/tablespace_map
if [ -s "$map" ]; then
  : >"$marks/map"
  # A line is "OID LOCATION", with a backslash before backslashes.
  while IFS= read -r line; do
    oid=${line%% *}
    location=$(printf '%s\n' "${line#* }" | sed 's/\\\(.\)/\1/g')
    while IFS= read -r move; do
      [ "${move%%=*}" != "$location" ] || location=${move#*=}
    done <<MOVES
$moves
MOVES
    make "$location"
    unpack "$oid.tar" "$location"
    printf '%s %s\n' "$oid" "$(printf '%s\n' "$location" | sed 's/\\/\\\\/g')" >>"$marks/map"
  done <"$map"
  cat "$marks/map" >"$map"
fi

# Debian keeps the configuration outside of the data directory: without one no server starts.
[ -e "$target/postgresql.conf" ] || echo "# Made by restore.sh: see etc/ of the backup for what was set." >"$target/postgresql.conf"
for name in pg_hba.conf pg_ident.conf; do
  [ -e "$target/$name" ] || [ ! -e "etc/$name.zst" ] && [ ! -e "etc/$name.zst.age" ] || plain "etc/$name" >"$target/$name"
done
[ ! -e "$marks/failed" ] || fail "files of etc/ could not be read"
sync
echo "done; now start it: pg_ctl -D $target -o '-p 5432' start" >&2
