import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import type { ArchiveStatus } from '../../scripts/backup/archive/status.ts'
import { openWalStore, type WalStore } from '../../scripts/backup/wal/wal-store.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import type { Store } from '../../scripts/store/store.ts'
import { ROOT, runScript, type ScriptResult } from './script.ts'
import type { TestServer } from './server.ts'

/** A host with an archive of its own: state folder, store and slot. */
export interface ArchiveHost {
  readonly dir: string
  readonly file: string
  readonly slot: string
  /** Folder of the store. */
  readonly storeDir: string
  readonly store: Store
  readonly spool: string
  readonly pidFile: string
  readonly wal: WalStore
  archive(...args: readonly string[]): Promise<ScriptResult>
  status(): Promise<ArchiveStatus & { readonly code: number | null }>
  /** Starts the service. */
  run(...args: readonly string[]): Service
  /** Waits until the store has all that the server has flushed by now. */
  caughtUp(): Promise<void>
}

/** A service that runs. */
export interface Service extends AsyncDisposable {
  readonly child: ChildProcess
  /** What it has logged so far. */
  log(): string
  /** Its exit code. */
  end(signal?: NodeJS.Signals): Promise<number | null>
  readonly ended: Promise<number | null>
}

let number = 0

/** Makes a host; `archive` stands in `[archive]`, `rest` after it. */
export async function archiveHost(server: TestServer, archive = '', rest = ''): Promise<ArchiveHost> {
  const dir = join(server.dir, `archive${++number}`)
  await mkdir(dir)
  const slot = `slot${number}`
  const file = join(dir, 'host.toml')
  const storeDir = join(dir, 'store')
  const header = server.header.replace(/state_dir = .*/, `state_dir = "${dir}/state"`)
  const toml = `${header}
[store.local]
type = "dir"
path = "${storeDir}"
[archive]
store = "local"
slot = "${slot}"
partial_every = "200ms"
compression_level = 1
${archive}
${rest}`
  await writeFile(file, toml)
  const [{ id }] = (await server.query<{ id: string }>(
    'postgres',
    'select system_identifier::text as id from pg_control_system()',
  )) as [{ id: string }]
  const store = dirStore(storeDir)
  const host: ArchiveHost = {
    dir,
    file,
    slot,
    storeDir,
    store,
    spool: join(dir, 'state/spool', id),
    pidFile: join(dir, `state/spool/${id}.receiver.json`),
    wal: openWalStore({ store, prefix: `test/main/wal/${id}/`, level: 1 }),
    archive: (...args) => runScript(['archive', ...args, '-c', file]),
    async status() {
      const { code, stdout, stderr } = await host.archive('status', '--json')
      const { result } = JSON.parse(stdout) as { result?: ArchiveStatus }
      if (!result) throw new Error(`status failed: ${stderr}`)
      return { ...result, code }
    },
    run: (...args) => startService(['run', '-c', file, ...args]),
    async caughtUp() {
      const [{ lsn }] = (await server.query<{ lsn: string }>(
        'postgres',
        'select pg_current_wal_flush_lsn()::text as lsn',
      )) as [{ lsn: string }]
      for (const deadline = Date.now() + 60_000; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
        const position = await host.wal.readPosition().catch(() => undefined)
        if (position && (await isReached(server, position.lsn, lsn))) return
        if (Date.now() > deadline)
          throw new Error(`the store is at ${position?.lsn}, the server was at ${lsn}`)
      }
    },
  }
  return host
}

/** Bytes of a stored segment, or of its beginning. */
export function storedBytes(wal: WalStore, name: string, what: 'whole' | 'partial'): Promise<Buffer> {
  return buffer(what === 'whole' ? wal.get(name) : wal.getPartial(name))
}

/** The process of the receiver that a host's service has started last. */
export async function receiverPid(host: ArchiveHost): Promise<number> {
  return (JSON.parse(await readFile(host.pidFile, 'utf8')) as { pid: number }).pid
}

async function isReached(server: TestServer, lsn: string, wanted: string): Promise<boolean> {
  const [row] = await server.query<{ reached: boolean }>(
    'postgres',
    'select $1::pg_lsn >= $2::pg_lsn as reached',
    [lsn, wanted],
  )
  return row!.reached
}

function startService(args: readonly string[]): Service {
  const child = spawn(process.execPath, [join(ROOT, 'scripts/archive.ts'), ...args], {
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const ended = once(child, 'close').then(([code]) => code as number | null)
  const service: Service = {
    child,
    ended,
    log: () => log,
    end(signal = 'SIGTERM') {
      child.kill(signal)
      return ended
    },
    async [Symbol.asyncDispose]() {
      await service.end('SIGKILL')
    },
  }
  return service
}
