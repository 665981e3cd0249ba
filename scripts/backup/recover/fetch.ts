import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { chmod, chown, mkdir, readdir, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { input, run } from '../../core/exec.ts'
import { Fail } from '../../core/fail.ts'
import { isMissing, readTextIfAny } from '../../core/file.ts'
import { free } from '../../core/memory.ts'
import { unpack } from '../../store/pipeline.ts'
import type { Store } from '../../store/store.ts'
import type { ManifestFile } from '../manifest.ts'
import type { PhysicalFound } from './choose.ts'
import type { RecoverPlan } from './plan.ts'
import type { Work } from './work.ts'

/** Ending of files that would let a server start before everything is there. */
export const HELD = '.restoring'
/** What is kept from the server until the recovery is over. */
const HELD_FILES = ['global/pg_control', 'postgresql.auto.conf']

/** How a backup is fetched. */
export interface FetchOptions {
  /** File of the private key. */
  readonly identity: string | undefined
  /** Told of each piece that comes out of the store. */
  readonly onBytes?: ((count: number) => void) | undefined
}

/**
 * Unpacks a backup, and those that it stands on, to where the isolated server will find it. Without its
 * control file, no server starts from it until {@link releaseControl}.
 * @throws {Fail} `backup-damaged`, `wrong-key`, `no-space`
 */
export async function fetchBackup(plan: RecoverPlan, work: Work, options: FetchOptions): Promise<void> {
  const { chain, place } = plan
  const chosen = chain.at(-1)!
  const paths = [work.data, ...work.tablespaces.map(({ temporary }) => temporary)]
  const flushing = flushingOf(paths, options)
  try {
    if (chain.length > 1) await combine(plan, work, flushing)
    else {
      const tablespace = (oid: string) => temporaryOf(work, oid)
      await unpackInto(chosen, { data: work.data, tablespace }, plan, flushing)
    }
  } catch (error) {
    await flushing.over().catch(() => {}) // what stopped us is the news
    throw error
  }
  await flushing.over()
  await chmod(work.data, 0o700) // whatever it was: the server refuses to start from an open one
  // It beats recovery.signal, and is in every backup of a standby.
  await rm(join(work.data, 'standby.signal'), { force: true })
  await rm(join(work.data, 'postmaster.pid'), { force: true })
  await writeTablespaceMap(work, place.owner)
  await writeFor(join(work.data, 'recovery.signal'), '', place.owner)
  await flushAll(paths)
}

/** Flushes the file systems of some folders, each of them once. */
export async function flushAll(paths: readonly string[]): Promise<void> {
  const one = new Map<number, string>()
  for (const path of paths) one.set((await stat(path)).dev, path)
  await run(['sync', '--file-system', ...one.values()], { timeoutSeconds: 3600 })
}

/** Stored bytes between two flushes. */
const FLUSH_SIZE = 64 * 1024 ** 2

/** Flushes what is unpacked meanwhile: the disk would have nothing to do, and all of it at the end. */
function flushingOf(
  paths: readonly string[],
  options: FetchOptions,
): FetchOptions & { over(): Promise<void> } {
  let bytes = 0
  let flush: Promise<void> | undefined
  let failure: unknown
  return {
    ...options,
    onBytes(count) {
      options.onBytes?.(count)
      bytes += count
      if (bytes < FLUSH_SIZE || flush !== undefined) return
      bytes = 0
      flush = flushAll(paths)
        // The kernel tells it once: a flush after it would find all well.
        .catch((error: unknown) => void (failure ??= error))
        .finally(() => (flush = undefined))
    },
    over: async () => {
      await flush
      if (failure !== undefined) throw failure
    },
  }
}

/** Lets a server start. */
export async function releaseControl(work: Work): Promise<void> {
  const path = join(work.data, 'global/pg_control')
  await rename(`${path}${HELD}`, path).catch((error: unknown) => {
    if (!isMissing(error)) throw error
    throw new Fail('backup-damaged', `backup ${work.label} has no control file`)
  })
}

/** Gives the cluster its own settings back, without those of a recovery or a standby. */
export async function releaseSettings(
  work: Work,
  edit: (text: string) => string,
  owner: Owner,
): Promise<void> {
  const path = join(work.data, 'postgresql.auto.conf')
  const text = (await readTextIfAny(`${path}${HELD}`)) ?? (await readTextIfAny(path)) ?? ''
  await writeFor(path, edit(text), owner)
  await rm(`${path}${HELD}`, { force: true })
}

type Owner = RecoverPlan['place']['owner']

/** Writes a file that belongs to the server's user. */
export async function writeFor(path: string, content: string, owner: Owner): Promise<void> {
  await writeFile(path, content, { mode: 0o600 })
  if (owner) await chown(path, owner.uid, owner.gid)
}

function temporaryOf(work: Work, oid: string): string {
  return work.tablespaces.find((space) => space.oid === oid)!.temporary
}

interface Places {
  readonly data: string
  readonly tablespace: (oid: string) => string
  /** With the names that they have in the backup. */
  readonly isPlain?: boolean
}

const AT_ONCE = 2

async function unpackInto(
  found: PhysicalFound,
  places: Places,
  plan: RecoverPlan,
  options: FetchOptions,
): Promise<void> {
  const { physical } = found.manifest
  const tars = [
    { file: physical.file, folder: places.data },
    ...physical.tablespaces.map(({ oid, file }) => ({ file, folder: places.tablespace(oid) })),
  ]
  const failed = new AbortController()
  const next = tars.values()
  const worker = async () => {
    for (const { file, folder } of next) {
      failed.signal.throwIfAborted()
      const held = folder === places.data && !places.isPlain ? HELD_FILES : []
      await untar(found, file, { folder, held, osUser: plan.place.osUser, signal: failed.signal, ...options })
    }
  }
  const workers = Array.from({ length: AT_ONCE }, () =>
    worker().catch((error: unknown) => {
      failed.abort(error)
      throw error
    }),
  )
  const ended = await Promise.allSettled(workers)
  if (ended.some(({ status }) => status === 'rejected')) throw failed.signal.reason
}

interface Untar extends FetchOptions {
  readonly folder: string
  readonly osUser: string
  readonly signal: AbortSignal
  /** Files that get {@link HELD} as their ending. */
  readonly held: readonly string[]
}

// The bytes pass through this process once, as they are stored; the rest is between the programs.
const PIPE = `set -o pipefail
folder=$1 user=$2 identity=$3
shift 3
as=()
if [ "$(id -u)" = 0 ] && [ "$user" != root ]; then as=(runuser -u "$user" --); fi
decode() { zstd --quiet --stdout --decompress; }
if [ -n "$identity" ]; then
  decode() { age --decrypt --identity "$identity" | zstd --quiet --stdout --decompress; }
fi
decode | "\${as[@]}" tar --extract --file=- --directory="$folder" --no-same-owner --blocking-factor=512 "$@"`

async function untar(found: PhysicalFound, name: string, options: Untar): Promise<void> {
  const file = fileOf(found, name)
  const key = keyOf(found, file)
  const isEncrypted = name.endsWith('.age')
  const renames = options.held.map((path) => `--transform=s,^\\(\\./\\)\\?${path}$,${path}${HELD},`)
  const identity = isEncrypted ? (options.identity ?? '') : ''
  const argv = ['bash', '-c', PIPE, 'bash', options.folder, options.osUser, identity, ...renames]
  try {
    await input(argv, stored(found.store, key, file, options.onBytes), { signal: options.signal })
  } catch (error) {
    throw asFail(error, key, options.folder)
  }
}

/** The stored bytes; the last ones come after the proof that all are as they were written. */
async function* stored(
  store: Store,
  key: string,
  file: ManifestFile,
  onBytes?: (count: number) => void,
): AsyncGenerator<Buffer, void> {
  const hash = createHash('sha256')
  let size = 0
  let held: Buffer | undefined
  for await (const chunk of (await store.get(key)) as AsyncIterable<Buffer>) {
    hash.update(chunk)
    size += chunk.length
    onBytes?.(chunk.length)
    if (held !== undefined) {
      yield held
      free(held)
    }
    held = chunk
  }
  if (size !== file.size) throw damaged(`stored file "${key}" has ${size} bytes, ${file.size} were written`)
  const sha256 = hash.digest('hex')
  if (sha256 !== file.sha256)
    throw damaged(`stored file "${key}" has the SHA-256 ${sha256}, ${file.sha256} was written`)
  if (held !== undefined) yield held
}

function asFail(error: unknown, key: string, folder: string): unknown {
  if (!(error instanceof Fail) || error.code !== 'command-failed') return error
  const text = error.hint ?? ''
  if (/no space left|disk quota exceeded/i.test(text)) {
    return new Fail('no-space', `no space is left in "${folder}" for "${key}"`, {
      hint: `Free some: df -h ${dirname(folder)}`,
      cause: error,
    })
  }
  if (/no identity matched|unknown identity|malformed secret key/i.test(text)) {
    return new Fail('wrong-key', `"${key}" is encrypted for somebody else: this identity cannot read it`, {
      hint: 'Give the file with the private key of one of its recipients: --identity FILE',
      cause: error,
    })
  }
  return damaged(`stored file "${key}" cannot be unpacked: ${text || error.message}`, error)
}

function damaged(message: string, cause?: unknown): Fail {
  return new Fail('backup-damaged', message, {
    hint: 'Restore from another one with --backup LABEL: howdah backup list',
    cause,
  })
}

/** Unpacks each backup of a chain and lets PostgreSQL's own program make one of them. */
async function combine(plan: RecoverPlan, work: Work, options: FetchOptions): Promise<void> {
  const { osUser, owner, bindir } = plan.place
  const folders: string[] = []
  for (const [index, found] of plan.chain.entries()) {
    const folder = join(work.root, `chain${index}`)
    const spaces = join(work.root, `chain${index}-tablespaces`)
    for (const path of [folder, spaces]) await makeFor(path, owner)
    for (const { oid } of found.manifest.physical.tablespaces) await makeFor(join(spaces, oid), owner)
    await unpackInto(
      found,
      { data: folder, tablespace: (oid) => join(spaces, oid), isPlain: true },
      plan,
      options,
    )
    for (const { oid } of found.manifest.physical.tablespaces)
      await symlink(join(spaces, oid), join(folder, 'pg_tblspc', oid))
    await unpackManifest(found, folder, owner, options)
    folders.push(folder)
  }
  const last = join(work.root, `chain${plan.chain.length - 1}-tablespaces`)
  const mappings = work.tablespaces.flatMap(({ oid, temporary }) => [
    '--tablespace-mapping',
    `${escapeEqual(join(last, oid))}=${escapeEqual(temporary)}`,
  ])
  const output = ['--output', work.data, '--no-sync', ...mappings]
  await run([join(bindir, 'pg_combinebackup'), ...folders, ...output], { as: osUser, timeoutSeconds: 86_400 })
  for (const path of HELD_FILES)
    await rename(join(work.data, path), join(work.data, `${path}${HELD}`)).catch((error: unknown) => {
      if (!isMissing(error)) throw error
    })
  for (const name of await readdir(work.root))
    if (name.startsWith('chain')) await rm(join(work.root, name), { recursive: true, force: true })
}

async function unpackManifest(
  found: PhysicalFound,
  folder: string,
  owner: Owner,
  { identity }: FetchOptions,
): Promise<void> {
  const file = fileOf(found, found.manifest.physical.backupManifest)
  const path = join(folder, 'backup_manifest')
  await pipeline(
    unpack(found.store, { ...file, key: keyOf(found, file) }, { identity }),
    createWriteStream(path, { mode: 0o600 }),
  )
  if (owner) await chown(path, owner.uid, owner.gid)
}

/** Links of the server's own making: it reads this at its start, before it writes anything anywhere. */
async function writeTablespaceMap(work: Work, owner: Owner): Promise<void> {
  const path = join(work.data, 'tablespace_map')
  if (work.tablespaces.length === 0) {
    await rm(path, { force: true })
    return
  }
  const lines = work.tablespaces.map(
    ({ oid, temporary }) => `${oid} ${temporary.replaceAll(/[\\\n\r]/g, String.raw`\$&`)}\n`,
  )
  await writeFor(path, lines.join(''), owner)
}

async function makeFor(path: string, owner: Owner): Promise<void> {
  await mkdir(path, { mode: 0o700 })
  if (owner) await chown(path, owner.uid, owner.gid)
}

function escapeEqual(path: string): string {
  return path.replaceAll('=', String.raw`\=`)
}

/** @throws {Fail} `backup-damaged` when the manifest has no such file */
function fileOf({ manifest }: PhysicalFound, name: string): ManifestFile {
  const file = manifest.files.find((each) => each.name === name)
  if (file) return file
  throw damaged(`the manifest of ${manifest.label} names no file "${name}"`)
}

function keyOf({ manifest }: PhysicalFound, { name }: ManifestFile): string {
  return `${manifest.cluster}/backup/${manifest.label}/${name}`
}
