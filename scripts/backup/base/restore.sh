#!/bin/sh
# Restores this backup without Howdah: sha256sum, zstd, tar, PostgreSQL, and age where it is encrypted.
#
#   sh restore.sh --check                       checks every file, and that is all
#   sh restore.sh --target DIR [OPTION...]      checks every file and makes a data directory
#     --identity FILE                           age's private key, for files that end in .age
#     --tablespace OLD=NEW                      puts a tablespace elsewhere; once for each
#     --bindir DIR                              PostgreSQL's programs, where pg_combinebackup is not on the PATH
#
# Run it as the user that the server runs as (postgres). DIR and the folders of tablespaces must be
# empty or missing. WAL is inside: the server recovers to the end of the backup when it is started.
# Where there is a file PARENTS, this is an incremental backup: the folders of the backups that it
# names must be beside this one, and pg_combinebackup puts them together.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
target='' identity='' check='' moves=''
newline='
'
fail() { echo "restore.sh: $*" >&2 && exit 1; }
absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac }
while [ $# -gt 0 ]; do
  case $1 in
    --check) check=yes ;;
    --target) target=$(absolute "${2:?"--target needs a folder"}") && shift ;;
    --identity) identity=$(absolute "${2:?"--identity needs a file"}") && shift ;;
    --tablespace) moves="$moves${2:?"--tablespace needs OLD=NEW"}$newline" && shift ;;
    --bindir) PATH=${2:?"--bindir needs a folder"}:$PATH && shift ;;
    *) fail "there is no option $1: see the head of this file" ;;
  esac
  shift
done
[ -n "$check$target" ] || fail "say where to: --target DIR"

# The folders of the whole chain, oldest first; this one is the last of them.
set --
if [ -e "$here/PARENTS" ]; then
  while IFS= read -r label; do
    [ -e "$here/../$label/SHA256SUMS" ] || fail "it is on top of $label, which is not beside it: fetch that folder, too"
    set -- "$@" "$here/../$label"
  done <"$here/PARENTS"
  [ -n "$check" ] || command -v pg_combinebackup >/dev/null || fail "pg_combinebackup is not on the PATH: give --bindir /usr/lib/postgresql/MAJOR/bin"
fi
set -- "$@" "$here"

for folder; do
  echo "checking every file of $(basename -- "$folder")" >&2
  (cd -- "$folder" && sha256sum --check --quiet --strict SHA256SUMS)
done
[ -z "$check" ] || { echo "every file is as it was written" >&2 && exit 0; }
[ -n "$identity" ] || [ ! -e "$here/base.tar.zst.age" ] || fail "it is encrypted: give age's private key with --identity FILE"

# A pipe's exit code is that of its last program only, so each of the others leaves a mark when it fails.
marks=$(mktemp -d)
parts=$target.parts
trap 'rm -rf -- "$marks"' EXIT
plain() { # FILE without endings: its bytes
  if [ -e "$1.zst" ]; then
    zstd -dcq -- "$1.zst" || : >"$marks/failed"
  else
    { age --decrypt --identity "$identity" -- "$1.zst.age" || : >"$marks/failed"; } |
      { zstd -dcq || : >"$marks/failed"; }
  fi
}
unpack() { # FILE FOLDER
  echo "unpacking $1 into $2" >&2
  plain "$1" | tar -xpf - -C "$2" || : >"$marks/failed"
  assert_whole "$1 could not be unpacked: what is in $2 is not whole"
}
assert_whole() { [ ! -e "$marks/failed" ] || fail "$*"; }
is_free() { [ ! -e "$1" ] || { [ -d "$1" ] && [ -z "$(ls -A -- "$1")" ]; }; }
make() { # FOLDER
  is_free "$1" || fail "$1 is not empty"
  mkdir -p -- "$1" && chmod 700 -- "$1"
}
oids() { # FOLDER of a backup: the tablespaces that have a file of their own
  (cd -- "$1" && for file in [0-9]*.tar.zst*; do [ ! -e "$file" ] || printf '%s\n' "${file%%.*}"; done)
}
location_of() { # OID: where it was, of the data directory unpacked last; a line is "OID LOCATION", backslashes before backslashes
  [ ! -e "$data/tablespace_map" ] || sed -n "s/^$1 //p" "$data/tablespace_map" | sed 's/\\\(.\)/\1/g'
}
new_location_of() { # OID
  location=$(location_of "$1")
  while IFS= read -r move; do
    case $move in "$location="*) location=${move#"$location="} ;; esac
  done <<MOVES
$moves
MOVES
  printf '%s\n' "$location"
}
escape() { sed 's/\\/\\\\/g'; }

make "$target"
if [ $# -gt 1 ]; then make "$parts"; fi
data=$target
number=0
for folder; do
  number=$((number + 1))
  [ $# = 1 ] || data=$parts/$number
  make "$data"
  unpack "$folder/base.tar" "$data"
  chmod 700 -- "$data"
  rm -f -- "$data/standby.signal" # it would follow the primary of the standby that this is a backup of
  ! grep -vq '^[0-9]* /' "$data/tablespace_map" 2>/dev/null || fail "the folder of a tablespace has a line break in its name: RESTORE.md says how to go on by hand"
  : >"$marks/map"
  : >"$marks/moved"
  for oid in $(oids "$folder"); do
    new=$(new_location_of "$oid")
    case $new in
      '') place=$data/pg_tblspc/$oid ;; # it was within the data directory
      /*) place=$new && printf '%s %s\n' "$oid" "$(printf '%s\n' "$new" | escape)" >>"$marks/map" ;;
      *) fail "the place of a tablespace must begin with /: $new" ;;
    esac
    if [ $# -gt 1 ] && [ -n "$new" ]; then
      is_free "$new" || fail "$new is not empty"
      place=$parts/$number-$oid
      rm -f -- "$data/pg_tblspc/$oid" && ln -s -- "$place" "$data/pg_tblspc/$oid"
      printf '%s=%s\n' "$(printf '%s\n' "$place" | sed 's/=/\\=/g')" "$(printf '%s\n' "$new" | sed 's/=/\\=/g')" >>"$marks/moved"
    fi
    make "$place"
    unpack "$folder/$oid.tar" "$place"
  done
  [ ! -e "$data/tablespace_map" ] || cat "$marks/map" >"$data/tablespace_map"
  plain "$folder/backup_manifest" >"$data/backup_manifest"
  assert_whole "$folder/backup_manifest could not be read"
done

if [ $# -gt 1 ]; then
  echo "putting $# backups together" >&2
  set --
  for part in $(seq "$number"); do set -- "$@" "$parts/$part"; done
  while IFS= read -r moved; do set -- "$@" "--tablespace-mapping=$moved"; done <"$marks/moved"
  pg_combinebackup --output="$target" "$@"
  rm -rf -- "$parts"
fi

# Debian keeps the configuration outside of the data directory: without one no server starts.
[ -e "$target/postgresql.conf" ] || echo "# Made by restore.sh: see etc/ of the backup for what was set." >"$target/postgresql.conf"
for name in pg_hba.conf pg_ident.conf; do
  [ -e "$target/$name" ] || [ ! -e "$here/etc/$name.zst" ] && [ ! -e "$here/etc/$name.zst.age" ] || plain "$here/etc/$name" >"$target/$name"
done
assert_whole "files of etc/ could not be read"
sync
echo "done; now start it: pg_ctl -D $target -o '-p 5432 -c archive_mode=off' start" >&2
