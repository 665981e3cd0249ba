#!/bin/sh
# Restores this backup without Howdah: sha256sum, zstd, PostgreSQL's own programs, and age where it is encrypted.
#
#   sh restore.sh                      checks every file, then restores roles and all databases
#   sh restore.sh --check              checks every file, and that is all
#   sh restore.sh --no-globals FILE... restores these *.dump.zst only, without roles and tablespaces
#     --identity FILE                  age's private key, for files that end in .age
#
# It connects as psql does: set PGHOST, PGPORT and PGUSER (a superuser). psql, pg_restore and zstd
# must be on the PATH; PostgreSQL must not be older than the one that the backup is of. A database
# that exists is never written over. Folders of tablespaces must be there: RESTORE.md names them.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
fail() { echo "restore.sh: $*" >&2 && exit 1; }

globals=yes identity=''
while [ $# -gt 0 ]; do
  case $1 in
    --check) globals=none ;;
    --no-globals) globals=no ;;
    --identity)
      identity=${2:?"--identity needs a file"} && shift
      case $identity in /*) ;; *) identity=$PWD/$identity ;; esac
      ;;
    *) break ;;
  esac
  shift
done

cd -- "$here"
for file; do
  [ -f "$file" ] || fail "there is no option and no file $file: see the head of this file"
done

echo "checking every file" >&2
sha256sum --check --quiet --strict SHA256SUMS
[ "$globals" != none ] || { echo "every file is as it was written" >&2 && exit 0; }

ending=zst
[ ! -e globals.sql.zst.age ] || ending=zst.age
if [ "$ending" = zst.age ]; then
  [ -n "$identity" ] || fail "it is encrypted: give age's private key with --identity FILE"
  age --decrypt --identity "$identity" -- globals.sql.zst.age >/dev/null || fail "nothing was changed: this identity cannot read the backup"
fi

# A pipe's exit code is that of its last program only, so each of the others leaves a mark when it fails.
marks=$(mktemp -d) && trap 'rm -rf -- "$marks"' EXIT
plain() { # FILE: what is in it
  case $1 in
    *.age) { age --decrypt --identity "$identity" -- "$1" || : >"$marks/failed"; } | { zstd -dcq || : >"$marks/failed"; } ;;
    *) zstd -dcq -- "$1" || : >"$marks/failed" ;;
  esac
}
assert_whole() { # FILE
  [ ! -e "$marks/failed" ] || fail "$1 could not be read to its end: what was restored of it is not whole"
}

PGOPTIONS="${PGOPTIONS:-} -c lc_messages=C" # so that errors can be told apart below
export PGOPTIONS

if [ "$globals" = yes ]; then
  echo "restoring roles and tablespaces" >&2
  code=0
  said=$(plain "globals.sql.$ending" | psql -Xq -v VERBOSITY=verbose -d postgres -f - 2>&1 >/dev/null) || code=$?
  # A role that is there already (42710), as the superuser is, is no error: what follows sets it right.
  errors=$(printf '%s\n' "$said" | grep -E '(ERROR|FATAL|PANIC):' | grep -v ' 42710: ' || true)
  [ "$code" = 0 ] && [ -z "$errors" ] || { printf '%s\n' "${errors:-$said}" >&2 && exit 1; }
  assert_whole "globals.sql.$ending"
fi

[ $# -gt 0 ] || set -- *.dump."$ending"
for file; do
  echo "restoring $file" >&2
  # These two exist in every cluster, so their content goes into them.
  case ${file##*/} in
    postgres.dump.zst*) into="--single-transaction --dbname=postgres" ;;
    template1.dump.zst*) into="--single-transaction --dbname=template1" ;;
    *) into="--create --dbname=postgres" ;;
  esac
  # pg_restore may leave the last bytes unread, which is no failure of whoever writes them.
  # shellcheck disable=SC2086 # these are words
  plain "$file" | { pg_restore --exit-on-error $into && cat >/dev/null; }
  assert_whole "$file"
done
echo "done; now let the planner know the data: vacuumdb --all --analyze-in-stages" >&2
