import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ROOT, runScript, type ScriptResult } from '../support/script.ts'
import type { TestServer } from '../support/server.ts'

/** A profile of conf/, on a server of a test instead of a host's own. */
export interface Profile {
  run(...args: readonly string[]): Promise<ScriptResult>
  /** Tells the process's id when it has begun. */
  begin(onStart: (pid: number) => void, ...args: readonly string[]): Promise<ScriptResult>
  /** With something for the standard input. */
  feed(input: string, ...args: readonly string[]): Promise<ScriptResult>
}

/** Takes what a profile says of roles and databases, and leaves out what only a host has: its cluster, rules and backups.
 * @param more tables that a test adds
 */
export async function openProfile(server: TestServer, name: string, more = ''): Promise<Profile> {
  const text = await readFile(join(ROOT, `conf/${name}.toml`), 'utf8')
  const from = text.indexOf(text.includes('[tablespaces.') ? '[tablespaces.' : '[roles.')
  const to = text.indexOf('[store.')
  const tables = text
    .slice(from, to === -1 ? undefined : to)
    .replaceAll(/^password = .*\n/gm, '')
    .replaceAll(/^location = "/gm, `location = "${server.dir}/spaces`)
    .replaceAll(/^mount = .*\n/gm, '')
    .replaceAll('"sql/', `"${ROOT}/sql/`)
  const file = join(server.dir, `${name}${more === '' ? '' : '-more'}.toml`)
  await writeFile(file, `${server.header}\n${tables}\n${more}`)
  return {
    run: (...args) => runScript([...args, '-c', file]),
    begin: (onStart, ...args) => runScript([...args, '-c', file], { onStart }),
    feed: (input, ...args) => runScript([...args, '-c', file], { input }),
  }
}
