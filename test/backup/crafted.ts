import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { compactTime } from '../../scripts/backup/label.ts'
import { layoutOf } from '../../scripts/backup/layout.ts'
import { type Manifest, renderManifest } from '../../scripts/backup/manifest.ts'
import { claimOwnership, hostId } from '../../scripts/backup/owner.ts'
import { segmentName } from '../../scripts/backup/wal/segment.ts'
import { openWalStore } from '../../scripts/backup/wal/wal-store.ts'
import { systemIdentifier } from '../../scripts/cluster/lock.ts'
import { run } from '../../scripts/core/exec.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { runScript, type ScriptResult } from '../support/script.ts'
import type { TestServer } from '../support/server.ts'
import { sampleManifest } from './sample.ts'

/** Small, so that many segments are quick. */
export const SEGMENT_SIZE = 1024 * 1024

/** A store with backups of whatever age, whose files are what their manifests say. */
export interface Crafted {
  readonly file: string
  /** The cluster's folder in the store. */
  readonly folder: string
  readonly systemIdentifier: string
  run(...args: readonly string[]): Promise<ScriptResult>
  /** The `result` of a verb, which must end with 0. */
  result<T>(...args: readonly string[]): Promise<T>
  /** A dump of some age. */
  dump(daysAgo: number, change?: Partial<Manifest>): Promise<Manifest>
  /** A base backup of some age that begins in a segment. */
  base(daysAgo: number, segment: number, change?: PhysicalChange): Promise<Manifest>
  /** Stores segments of a timeline, from one number to another, both included. */
  wal(from: number, to: number, change?: { timeline?: number; systemIdentifier?: string }): Promise<void>
  /** Marks a take as in progress, last renewed some hours ago. */
  marker(hoursAgo: number, job?: string, machine?: string): Promise<void>
  /** What the store has below a folder of the cluster, in order. */
  files(below: string): Promise<string[]>
  /** Labels of the backups that there are, oldest first. */
  labels(): Promise<string[]>
  /** Numbers of the segments that are there with all that belongs to them. */
  segments(change?: { timeline?: number; systemIdentifier?: string }): Promise<number[]>
}

/** What a test changes about a physical backup. */
export interface PhysicalChange {
  readonly job?: string
  readonly parent?: string | null
  readonly timeline?: number
  readonly systemIdentifier?: string
}

let number = 0

/** Makes a host file with a store; `toml` has its jobs. */
export async function craft(server: TestServer, toml: string): Promise<Crafted> {
  const dir = join(server.dir, `crafted${++number}`)
  await mkdir(dir)
  const file = join(dir, 'host.toml')
  const text = `${server.header}
[store.local]
type = "dir"
path = "${dir}/store"
${toml}`.replace('/state"', `/state${number}"`)
  await writeFile(file, text)
  const host = parseHost(text)
  const layout = layoutOf(host)
  const store = dirStore(join(dir, 'store'))
  const identifier = await systemIdentifier(server.cluster)
  await claimOwnership(store, layout, {
    systemIdentifier: identifier,
    timeline: 1,
    hostId: await hostId(host.host.state_dir, { mode: 0o755 }),
    state: { folder: host.host.state_dir, access: { mode: 0o755 } },
    takeOver: undefined,
  })
  const folder = join(dir, 'store', layout.cluster)
  const add = async (daysAgo: number, kind: Manifest['kind'], change: Partial<Manifest>) => {
    const begun = new Date(Date.now() - daysAgo * 86_400_000)
    const label = `${compactTime(begun)}-${kind}-${randomLabel()}`
    const manifest = sampleManifest({
      label,
      kind,
      systemIdentifier: identifier,
      begun: begun.toISOString(),
      ended: new Date(begun.getTime() + 60_000).toISOString(),
      databases: [],
      files: await Promise.all(
        ['a.tar.zst', 'backup_manifest.zst', 'restore.sh'].map(async (name) => {
          const bytes = await zstd(randomBytes(2000))
          await put(join(folder, 'backup', label, name), bytes)
          return { name, size: bytes.length, sha256: sha256(bytes) }
        }),
      ),
      ...change,
    })
    await put(join(folder, 'catalog', `${label}.json`), renderManifest(manifest))
    return manifest
  }
  const walOf = (system: string) =>
    openWalStore({ store, prefix: `${layout.cluster}/wal/${system}/`, level: 1 })
  const crafted: Crafted = {
    file,
    folder,
    systemIdentifier: identifier,
    run: (...args) => runScript(['backup', ...args, '-c', file]),
    async result<T>(...args: readonly string[]) {
      const { code, stdout, stderr } = await crafted.run(...args, '--json')
      if (code !== 0) throw new Error(`backup ${args.join(' ')} ended with ${code}: ${stderr}${stdout}`)
      return (JSON.parse(stdout) as { result: T }).result
    },
    dump: (daysAgo, change = {}) => add(daysAgo, 'dump', change),
    base: (daysAgo, segment, { job = 'full', parent = null, timeline = 1, ...change } = {}) =>
      add(daysAgo, parent === null ? 'base' : 'incr', {
        job,
        timeline,
        physical: physicalOf(segment, parent),
        ...change,
      }),
    async wal(from, to, { timeline = 1, systemIdentifier = identifier } = {}) {
      const plain = join(dir, 'segment')
      for (let at = from; at <= to; at++) {
        await writeFile(plain, randomBytes(1000))
        await walOf(systemIdentifier).put(segmentName({ timeline, number: BigInt(at) }, SEGMENT_SIZE), plain)
      }
      await rm(plain, { force: true })
    },
    async marker(hoursAgo, job = 'full', machine = 'elsewhere') {
      const path = join(folder, 'running', `20261122T020000Z-base-${randomLabel()}.json`)
      await put(path, Buffer.from(JSON.stringify({ format: 1, job, machine })))
      const time = new Date(Date.now() - hoursAgo * 3_600_000)
      await utimes(path, time, time)
    },
    async files(below) {
      const entries = await readdir(join(folder, below), { recursive: true, withFileTypes: true }).catch(
        () => [],
      )
      return entries
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => join(parentPath, name).slice(join(folder, below).length + 1))
        .sort()
    },
    async labels() {
      const names = await readdir(join(folder, 'catalog')).catch(() => [])
      return names.map((name) => name.replace('.json', '')).sort()
    },
    async segments({ timeline = 1, systemIdentifier = identifier } = {}) {
      const { segments } = await walOf(systemIdentifier).list(timeline)
      return segments.map((name) => Number.parseInt(name.slice(-8), 16))
    },
  }
  return crafted
}

function physicalOf(segment: number, parent: string | null): NonNullable<Manifest['physical']> {
  const start = segment * SEGMENT_SIZE + 0x28
  const lsn = (value: number) => `0/${value.toString(16).toUpperCase()}`
  return {
    startLsn: lsn(start),
    stopLsn: lsn(start + 0x100),
    walSegmentSize: SEGMENT_SIZE,
    blockSize: 8192,
    dataChecksums: true,
    hasBadChecksums: false,
    isFromStandby: false,
    parent,
    file: 'a.tar.zst',
    backupManifest: 'backup_manifest.zst',
    tablespaces: [],
    dataSize: 2000,
    databases: [],
    settings: {},
  }
}

function randomLabel(): string {
  return randomBytes(3).toString('hex')
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function zstd(bytes: Buffer): Promise<Buffer> {
  const { stdout } = await run(['sh', '-c', `base64 -d | zstd -q | base64 -w0`], {
    input: bytes.toString('base64'),
  })
  return Buffer.from(stdout, 'base64')
}

async function put(path: string, bytes: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, bytes)
}

/** Turns one bit of a file over. */
export async function flip(path: string): Promise<void> {
  const bytes = await readFile(path)
  const middle = Math.floor((await stat(path)).size / 2)
  bytes[middle]! ^= 1
  await writeFile(path, bytes)
}
