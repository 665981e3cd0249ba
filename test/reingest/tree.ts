import { mkdir, stat, utimes, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { TestServer } from '../support/server.ts'
import { ROOT } from '../support/script.ts'

/** The part of a host file that makes the database of a telescope, and reads files of the host `aoc` into it. */
export function telescope(server: TestServer, more = ''): string {
  return `${server.header}
[roles.xtelem]
login = true
[databases.xtelem]
owner = "xtelem"
[databases.xtelem.migrations]
dir = "${ROOT}/sql/xtelem/migrations"
role = "xtelem"
[reingest.telem]
database = "xtelem"
hostname = "aoc"
${more}
`
}

/** A line as an instrument writes it. */
export function line(ts: string, msg: string, ec = 'telem_cooler'): string {
  return `{"ts": "${ts}", "prio": "TELM", "ec": "${ec}", "msg": ${msg}}\n`
}

/** Writes a file that nobody has touched for a day, packed as its name says. */
export async function writeOld(path: string, text: string | Buffer): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, path.endsWith('.gz') && typeof text === 'string' ? gzipSync(text) : text)
  const then = Date.now() / 1000 - 86_400
  await utimes(path, then, then)
}

/** Tells the database of files, as they are on the disk. */
export async function enrol(server: TestServer, paths: readonly string[], host = 'aoc'): Promise<void> {
  for (const path of paths) {
    const found = await stat(path, { bigint: true }).catch(() => undefined)
    await server.query(
      'xtelem',
      `insert into file_origins values ($1, $2, to_timestamp($3), to_timestamp($3), $4)
       on conflict (origin_host, origin_path) do update set modification_time = excluded.modification_time, size_bytes = excluded.size_bytes`,
      [host, path, found ? Number(found.mtimeMs) / 1000 : 0, found ? String(found.size) : null],
    )
  }
}
