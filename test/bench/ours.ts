import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { run } from '../../scripts/core/exec.ts'
import { ROOT } from '../support/script.ts'
import type { TestServer } from '../support/server.ts'
import { DATABASE, folderBytes } from './dataset.ts'
import type { Side } from './sides.ts'

/** The launcher: we are measured as users run us. */
export const HOWDAH: string = join(ROOT, 'scripts/howdah')

/** A host file of the server with a store of its own. */
export interface OurHost {
  readonly file: string
  readonly store: string
  /** State folder. */
  readonly state: string
}

/** Versions of what we consist of. */
export async function ourVersions(server: TestServer): Promise<Record<string, string>> {
  const commit = await run(['git', '-C', ROOT, 'describe', '--always', '--dirty', '--abbrev=12'], {
    okCodes: [0, 128],
  })
  const [row] = await server.query<{ version: string }>(
    'postgres',
    "select current_setting('server_version') as version",
  )
  return { howdah: commit.stdout.trim() || 'no git', node: process.version, postgresql: row!.version }
}

/** Writes a host file; `extra` is added to it. */
export async function writeOurHost(server: TestServer, name: string, extra = ''): Promise<OurHost> {
  const file = join(server.dir, `${name}.toml`)
  const store = join(server.dir, `${name}-store`)
  const text = `${server.header}
[store.local]
type = "dir"
path = "${store}"
[backup.base]
kind = "base"
store = "local"
compression_level = 3
[backup.dump]
kind = "dump"
databases = ["${DATABASE}"]
store = "local"
compression_level = 3
${extra}`
  await writeFile(file, text)
  // Once without being measured: the launcher may have something to install, and Node to compile.
  await run([HOWDAH, 'backup', 'list', '-c', file], { okCodes: [0, 52] }) // 52: it has no folder yet
  return { file, store, state: join(server.dir, 'state') }
}

/** A host file whose backups are encrypted for a key that is made here. */
export async function writeOurAgeHost(server: TestServer, name: string): Promise<OurHost> {
  const identity = join(server.dir, `${name}.key`)
  await run(['age-keygen', '-o', identity])
  const recipient = /^# public key: (\S+)$/m.exec(await readFile(identity, 'utf8'))![1]
  return writeOurHost(server, name, `[encryption]\nrecipients = ["${recipient}"]\n`)
}

/** Takes a backup into an empty store. */
export function takeSide({ file, store, state }: OurHost, job: 'base' | 'dump'): Side {
  // A host knows where it has stored something, and does not begin anew there.
  const folders = [store, join(state, 'stores')]
  return {
    argv: [HOWDAH, 'backup', 'take', job, '-c', file],
    isRoot: true,
    before: async () => {
      for (const folder of folders) await rm(folder, { recursive: true, force: true })
    },
    after: () => folderBytes(join(store, 'test/main/backup')),
  }
}
