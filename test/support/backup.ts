import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { runScript, type ScriptResult } from './script.ts'
import type { TestServer } from './server.ts'

/** A host file of a test server with a store of its own and a dump job `nightly`. */
export interface BackupHost {
  /** Path of the host file. */
  readonly file: string
  /** Folder of the store; the backups are in `test/main/` of it. */
  readonly store: string
  backup(...args: readonly string[]): Promise<ScriptResult>
  restore(...args: readonly string[]): Promise<ScriptResult>
  /** Takes a backup, which must succeed. */
  take(): Promise<Manifest>
  /** What is in the store, by path below `test/main/`, without what differs each time. */
  files(): Promise<string[]>
}

let number = 0

/** Makes a host with a store of its own; `job` stands in `[backup.nightly]`. */
export async function backupHost(server: TestServer, job = ''): Promise<BackupHost> {
  const dir = join(server.dir, `host${++number}`)
  await mkdir(dir)
  const file = join(dir, 'host.toml')
  const store = join(dir, 'store')
  const toml = `${server.header}
[store.local]
type = "dir"
path = "${store}"
[backup.nightly]
kind = "dump"
store = "local"
${job}
`
  await writeFile(file, toml)
  const host: BackupHost = {
    file,
    store,
    backup: (...args) => runScript(['backup', ...args, '-c', file]),
    restore: (...args) => runScript(['restore', ...args, '-c', file]),
    async take() {
      const { code, stdout, stderr } = await host.backup('take', 'nightly', '--json')
      if (code !== 0) throw new Error(`take failed: ${stderr}`)
      return (JSON.parse(stdout) as { result: Manifest }).result
    },
    async files() {
      const entries = await readdir(join(store, 'test/main'), { recursive: true, withFileTypes: true })
      return entries
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => join(parentPath, name).slice(join(store, 'test/main/').length))
        .sort()
    },
  }
  return host
}
