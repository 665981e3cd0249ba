#!/bin/sh
# Restores this backup without Howdah: sha256sum, zstd and PostgreSQL's own programs are enough.
#
#   sh restore.sh                      checks every file, then restores roles and all databases
#   sh restore.sh --check              checks every file, and that is all
#   sh restore.sh --no-globals FILE... restores these *.dump.zst only, without roles and tablespaces
#
# It connects as psql does: set PGHOST, PGPORT and PGUSER (a superuser). psql, pg_restore and zstd
# must be on the PATH; PostgreSQL must not be older than the one that the backup is of. A database
# that exists is never written over. Folders of tablespaces must be there: RESTORE.md names them.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
cd -- "$here"

globals=yes
case ${1:-} in
  --check) globals=none && shift ;;
  --no-globals) globals=no && shift ;;
esac

echo "checking every file" >&2
sha256sum --check --quiet --strict SHA256SUMS
[ "$globals" != none ] || { echo "every file is as it was written" >&2 && exit 0; }

PGOPTIONS="${PGOPTIONS:-} -c lc_messages=C" # so that errors can be told apart below
export PGOPTIONS

if [ "$globals" = yes ]; then
  echo "restoring roles and tablespaces" >&2
  code=0
  said=$(zstd -dcq globals.sql.zst | psql -Xq -v VERBOSITY=verbose -d postgres -f - 2>&1 >/dev/null) || code=$?
  # A role that is there already (42710), as the superuser is, is no error: what follows sets it right.
  errors=$(printf '%s\n' "$said" | grep -E '(ERROR|FATAL|PANIC):' | grep -v ' 42710: ' || true)
  [ "$code" = 0 ] && [ -z "$errors" ] || { printf '%s\n' "${errors:-$said}" >&2 && exit 1; }
fi

[ $# -gt 0 ] || set -- *.dump.zst
for file; do
  echo "restoring $file" >&2
  case ${file##*/} in
    # These two exist in every cluster, so their content goes into them.
    postgres.dump.zst) zstd -dcq -- "$file" | pg_restore --exit-on-error --single-transaction --dbname=postgres ;;
    template1.dump.zst) zstd -dcq -- "$file" | pg_restore --exit-on-error --single-transaction --dbname=template1 ;;
    *) zstd -dcq -- "$file" | pg_restore --exit-on-error --create --dbname=postgres ;;
  esac
done
echo "done; now let the planner know the data: vacuumdb --all --analyze-in-stages" >&2
