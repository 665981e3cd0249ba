import { shellWord } from '../../core/shell.ts'

/** How long a request waits while the process that serves it shows no sign of life, seconds. */
export const SILENCE_SECONDS = 60

/**
 * The script of restore_command: it gives the server what is in a folder, and asks for what is not.
 *
 * PostgreSQL takes an exit code from 1 to 125 as "the WAL ends here", and promotes. So 1 is only for what
 * was proven to be absent, and everything else, a dead server of requests too, is 255, which ends the
 * recovery with an error (src/backend/access/transam/xlogarchive.c, RestoreArchivedFile).
 *
 *     $1 name of the file (%f), $2 where it goes (%p)
 *     ready/NAME    the file          absent/NAME   proven not to be there
 *     wanted/NAME   is asked for      failed        no more requests are served
 *     beat          a number that changes while requests are served
 */
export function restoreScript(folder: string, silenceSeconds = SILENCE_SECONDS): string {
  return `#!/bin/sh
folder=${shellWord(folder)}
name=$1 last= still=0 code=255
trap 'exit "$code"' EXIT
while :; do
  if [ -f "$folder/ready/$name" ]; then
    mv -f "$folder/ready/$name" "$2" && code=0
    exit
  fi
  [ ! -f "$folder/failed" ] || exit
  if [ -f "$folder/absent/$name" ]; then
    code=1
    exit
  fi
  [ -f "$folder/wanted/$name" ] || true >"$folder/wanted/$name" || exit
  beat=
  read -r beat <"$folder/beat" || exit
  if [ "$beat" = "$last" ]; then still=$((still + 1)); else still=0 last=$beat; fi
  [ "$still" -lt ${silenceSeconds * 50} ] || exit
  sleep 0.02 || exit
done
`
}
