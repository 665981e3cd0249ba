import { createWriteStream } from 'node:fs'
import { mkdir, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { privateBindir } from '../cluster/private.ts'
import { input, run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { formatSize } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import { unpack } from '../store/pipeline.ts'
import type { Store } from '../store/store.ts'
import type { Manifest, ManifestFile } from './manifest.ts'

/** What looks into backups. */
export interface DeepSite {
  readonly host: Host
  /** Path of an age identity file. */
  readonly identity: string | undefined
  /** A folder of our own. */
  readonly scratch: string
  /** Told of each piece of plain bytes. */
  onBytes(count: number): void
  /** Told what goes on. */
  onStep(text: string): void
}

/** A backup, and those that it is on top of. */
export interface DeepBackup {
  readonly store: Store
  /** Oldest first, the backup itself at the end. */
  readonly chain: readonly Manifest[]
}

/**
 * Looks into a backup as a restore would: every file is unpacked; a dump's table of contents is read by
 * pg_restore, a physical backup is put together in a scratch folder and proven by pg_verifybackup.
 * @returns what is wrong
 * @throws {Fail} `no-space`, `wrong-key`, `not-permitted` when a program is missing, and what a store throws
 */
export async function lookInto(site: DeepSite, backup: DeepBackup): Promise<string[]> {
  const manifest = backup.chain.at(-1)!
  site.onStep(manifest.label)
  const problems: string[] = []
  const files = manifest.files.filter(({ name }) => isPacked(name) && !isOfTar(manifest, name))
  for (const file of files) problems.push(...(await problemsOf(() => drain(site, backup, file))))
  if (manifest.physical) problems.push(...(await problemsOf(() => proveCluster(site, backup))))
  for (const { file: name } of manifest.databases) {
    const file = manifest.files.find((file) => file.name === name)!
    if (problems.length === 0) problems.push(...(await problemsOf(() => readContents(site, backup, file))))
  }
  return problems
}

/**
 * The plain bytes of a file of a backup.
 * @throws {Fail} as {@link unpack}
 */
export async function* plainBytes(
  site: Pick<DeepSite, 'identity' | 'onBytes'>,
  store: Store,
  manifest: Manifest,
  file: ManifestFile,
): AsyncGenerator<Buffer, void> {
  const key = `${manifest.cluster}/backup/${manifest.label}/${file.name}`
  for await (const chunk of unpack(store, { ...file, key }, { identity: site.identity })) {
    site.onBytes(chunk.length)
    yield chunk
  }
}

/**
 * One of PostgreSQL's programs, of one major.
 * @throws {Fail} `not-permitted` when it is not installed
 */
export async function serverProgram(host: Host, major: number, name: string): Promise<string> {
  const own = host.postgres.kind === 'private' && host.postgres.major === major
  const folder = own ? privateBindir(host.postgres) : `/usr/lib/postgresql/${major}/bin`
  const path = join(folder, name)
  if (await exists(path)) return path
  throw new Fail('not-permitted', `there is no ${name} of PostgreSQL ${major} on this host`, {
    hint: `Install it: apt-get install postgresql-${major}`,
  })
}

/**
 * Makes sure that a scratch folder has room.
 * @throws {Fail} `no-space`
 */
export async function assertSpace(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder)
  const free = bavail * bsize
  if (free >= bytes) return
  throw new Fail('no-space', `${folder} has ${formatSize(free)} free, ${formatSize(bytes)} are needed`, {
    hint: 'Free some space there, or name another host.state_dir.',
  })
}

/** What is wrong with the backup is a finding; what is wrong with this host or the store ends it all. */
export async function problemsOf(look: () => Promise<void>): Promise<string[]> {
  try {
    await look()
    return []
  } catch (error) {
    if (!(error instanceof Fail) || !FINDINGS.has(error.code)) throw error
    const detail = error.code === 'command-failed' && error.hint ? `: ${error.hint}` : ''
    return [`${error.message}${detail}`]
  }
}

const FINDINGS = new Set([
  'backup-damaged',
  'command-failed',
  'store-missing',
  'wal-differs',
  'cluster-mismatch',
])

function isPacked(name: string): boolean {
  return /\.zst(\.age)?$/.test(name)
}

function isOfTar({ physical }: Manifest, name: string): boolean {
  return physical !== undefined && [physical, ...physical.tablespaces].some(({ file }) => file === name)
}

async function drain(site: DeepSite, { store, chain }: DeepBackup, file: ManifestFile): Promise<void> {
  for await (const _chunk of plainBytes(site, store, chain.at(-1)!, file)) continue // the proof comes at its end
}

async function readContents(site: DeepSite, { store, chain }: DeepBackup, file: ManifestFile): Promise<void> {
  const manifest = chain.at(-1)!
  const program = await serverProgram(site.host, manifest.postgres.major, 'pg_restore')
  await input([program, '--list'], plainBytes(site, store, manifest, file))
}

async function proveCluster(site: DeepSite, { store, chain }: DeepBackup): Promise<void> {
  const manifest = chain.at(-1)!
  const { major } = manifest.postgres
  const sizes = chain.map(({ physical }) => physical!.dataSize)
  // Of a chain the parts, and what they are put together to.
  const needed = sizes.reduce((sum, size) => sum + size, chain.length > 1 ? Math.max(...sizes) : 0)
  await assertSpace(site.scratch, needed * 1.1 + 64 * 1024 * 1024)
  const folder = join(site.scratch, manifest.label)
  try {
    const parts: string[] = []
    for (const part of chain) {
      const to = join(folder, part.label)
      await unpackCluster(site, store, part, to)
      parts.push(to)
    }
    let whole = parts[0]!
    if (parts.length > 1) {
      whole = join(folder, 'whole')
      site.onStep(`${manifest.label}: pg_combinebackup`)
      const combine = await serverProgram(site.host, major, 'pg_combinebackup')
      await run([combine, ...parts, `--output=${whole}`], { timeoutSeconds: DAY })
    }
    site.onStep(`${manifest.label}: pg_verifybackup`)
    const program = await serverProgram(site.host, major, 'pg_verifybackup')
    await run([program, '--quiet', whole], { timeoutSeconds: DAY })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

const DAY = 86_400

/** Puts the files of a physical backup where they were below its data directory, links of tablespaces being folders. */
async function unpackCluster(site: DeepSite, store: Store, manifest: Manifest, to: string): Promise<void> {
  const { file, backupManifest, tablespaces } = manifest.physical!
  const fileOf = (name: string) => {
    const found = manifest.files.find((file) => file.name === name)
    if (found) return found
    throw new Fail('backup-damaged', `the manifest of ${manifest.label} names no file "${name}"`)
  }
  const extract = async (name: string, folder: string) => {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const tar = ['tar', '--extract', '--file=-', `--directory=${folder}`, '--no-same-owner']
    await input(tar, plainBytes(site, store, manifest, fileOf(name)))
  }
  await extract(file, to)
  for (const { oid, file: name } of tablespaces) {
    const place = join(to, 'pg_tblspc', oid)
    await rm(place, { recursive: true, force: true }) // a link to where the live tablespace is, maybe
    await extract(name, place)
  }
  const bytes = plainBytes(site, store, manifest, fileOf(backupManifest))
  await pipeline(bytes, createWriteStream(join(to, 'backup_manifest'), { mode: 0o600 }))
}
