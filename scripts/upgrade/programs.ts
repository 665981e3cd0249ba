import { chmod, mkdir, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { shellWord } from '../core/shell.ts'

/**
 * Makes a folder with the programs of a major for pg_upgrade, in which pg_ctl is one that sees at once that a server
 * has started or stopped. PostgreSQL's own looks ten times a second (src/bin/pg_ctl/pg_ctl.c, WAITS_PER_SEC), and
 * pg_upgrade calls it eight times one after another: most of a second in which nobody is served.
 * @param folder is made; whoever runs pg_upgrade must be able to look into the one that it is in
 */
export async function linkPrograms(bindir: string, folder: string): Promise<void> {
  await mkdir(folder)
  await chmod(folder, 0o755) // whatever the umask
  for (const name of await readdir(bindir)) {
    if (name !== 'pg_ctl') await symlink(join(bindir, name), join(folder, name))
  }
  const quick = join(folder, 'pg_ctl')
  await writeFile(quick, quickText(join(bindir, 'pg_ctl')))
  await chmod(quick, 0o755)
}

/** It calls the program itself for all that it does, and waits in its place. Pure. */
function quickText(program: string): string {
  return `#!/bin/sh
# pg_ctl that waits in steps of some milliseconds. Start: whichever is first, the server or pg_ctl. Stop: pg_ctl
# only asks; it could not tell the next server of the same folder from the one that is to stop.
program=${shellWord(program)}
data='' before=''
for word; do
  [ "$before" != -D ] || data=$word
  before=$word
done
pidfile=$data/postmaster.pid

is_ready() {
  { read -r pid && read -r _ && read -r _ && read -r _ && read -r _ && read -r _ && read -r _ && read -r status _; } \\
    2>/dev/null <"$pidfile" && [ "$status" = ready ] && kill -0 "$pid" 2>/dev/null
}

case " $* " in
  *' -w '*' start ')
    # With a server there, or what one has left, pg_upgrade wants to hear how pg_ctl fares.
    [ ! -e "$pidfile" ] || exec "$program" "$@"
    "$program" "$@" &
    while kill -0 $! 2>/dev/null; do
      ! is_ready || exit 0
      sleep 0.005
    done
    wait $!
    ;;
  *' -w '*' stop ')
    for word; do
      shift
      [ "$word" != -w ] || word=-W
      set -- "$@" "$word"
    done
    "$program" "$@" || exit
    left=12000
    while [ -e "$pidfile" ]; do
      left=$((left - 1))
      [ $left -gt 0 ] || { echo 'pg_ctl: server does not shut down' >&2; exit 1; }
      sleep 0.005
    done
    ;;
  *) exec "$program" "$@" ;;
esac
`
}
