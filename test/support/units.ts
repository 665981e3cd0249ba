import { parseHost } from '../../scripts/host/host.ts'
import { renderUnits, type UnitFacts, type UnitFile } from '../../scripts/schedule/unit.ts'

/** A host file's texts, from which the tests of units make their variants. */
export const HOST = `
format = 1
[host]
name = "db1"
[postgres]
major = 15
cluster = "main"
`

/** A store in a folder, with a job. */
export const DIR_JOB = `
[store.local]
type = "dir"
path = "/srv/back up/100%"
[backup.nightly]
kind = "base"
store = "local"
schedule = "30 4 1,15 * 5"
`

/** A store in S3 with the archive of the WAL, and a job. */
export const S3_JOB = `
[store.far]
type = "s3"
bucket = "backups"
access_key = { credential = "s3.key" }
secret_key = { credential = "s3.secret" }
[archive]
store = "far"
[backup.far]
kind = "dump"
store = "far"
schedule = "@daily"
randomized_delay = "90s"
verify_schedule = "Sun 05:00"
ping = { credential = "ping" }
`

/** Somebody who is told by a program, and somebody by a webhook. */
export const NOTIFIED = `
[schedule]
on_failure = ["mail", "chat"]
[notify.mail]
command = ["/usr/sbin/sendmail", "-t"]
[notify.chat]
webhook = { credential = "hook" }
`

/** Somebody who is told by a program that needs to be root. */
export const TOLD_AS_ROOT = NOTIFIED.replace('"-t"]', '"-t"]\nprivileged = true')

/** Units of a host file that is put together of such texts. */
export function unitsOf(
  texts: readonly string[],
  facts: Partial<UnitFacts> = {},
  host: string = HOST,
): UnitFile[] {
  return renderUnits(parseHost([host, ...texts].join('')), {
    systemd: 252,
    program: '/opt/howdah/current',
    hostFile: '/etc/howdah/host.toml',
    ...facts,
  })
}

/** Files that are read into a database, at times and as they are written. */
export const READING_JOB = `
[databases.xtelem]
[reingest.telem]
database = "xtelem"
data_dirs = ["/opt/MagAOX/telem", "/data/100% of it"]
timezone = "Pacific/Honolulu"
schedule = "*/15 * * * *"
watch = true
`
