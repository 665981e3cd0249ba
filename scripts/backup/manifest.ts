import { z } from 'zod'
import { Fail } from '../core/fail.ts'
import { checkKey } from '../store/key.ts'
import { isLabel } from './label.ts'

/** Of the manifests that this version writes. A newer one is refused: it may mean something else. */
const FORMAT = 1

const count = z.int().min(0)
const sha256 = z.string().regex(/^[0-9a-f]{64}$/)
const time = z.iso.datetime()

const file = z.object({
  /** Below the backup's folder, as stored: `xtelem.dump.zst`. */
  name: z.string().refine(isKey, 'this is no key'),
  size: count,
  sha256,
  /** Of what is in it; left out for files that are stored as they are. */
  plainSize: count.optional(),
  plainSha256: sha256.optional(),
})

const database = z.object({
  name: z.string().min(1),
  /** Which of the files it is. */
  file: z.string().min(1),
  /** Bytes on disk of the database that was dumped. */
  size: count,
  owner: z.string(),
  tablespace: z.string(),
  encoding: z.string(),
  /** libc, icu or builtin. */
  localeProvider: z.string(),
  collate: z.string(),
  ctype: z.string(),
  /** Of the provider icu or builtin. */
  locale: z.string().nullable(),
  icuRules: z.string().nullable(),
  /** Of the library that sorted its indexes. */
  collationVersion: z.string().nullable(),
  extensions: z.array(z.object({ name: z.string(), version: z.string() })),
  /** Roles that must be there before it can be restored. */
  roles: z.array(z.string()),
  /** Tablespaces that must be there, its own included. */
  tablespaces: z.array(z.string()),
  /** How many there are of each kind; a restore must have as many. */
  objects: z.record(z.string(), count),
})

const lsn = z.string().regex(/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/)

/** What kinds `base` and `incr` say of the cluster. */
const physical = z.object({
  /** Where the redo of the backup begins: WAL from the segment of it on is needed. */
  startLsn: lsn,
  /** Recovery is consistent from here on. */
  stopLsn: lsn,
  /** Bytes. */
  walSegmentSize: count,
  blockSize: count,
  dataChecksums: z.boolean(),
  /** How the server was built, by the names of its settings, and its `machine`; older backups do not say it. */
  build: z.record(z.string(), z.string()).optional(),
  /** Pages of it had wrong checksums when it was taken. */
  hasBadChecksums: z.boolean().default(false),
  isFromStandby: z.boolean(),
  /** Of kind `incr`: the backup that it is on top of. */
  parent: z.string().refine(isLabel).nullable(),
  /** The file of the data directory itself: `base.tar.zst`. */
  file: z.string().min(1),
  /** PostgreSQL's own backup_manifest, whose bytes the next `incr` needs: `backup_manifest.zst`. */
  backupManifest: z.string().min(1),
  tablespaces: z.array(
    z.object({
      oid: z.string().regex(/^\d+$/),
      name: z.string(),
      location: z.string(),
      /** Bytes on disk, as the server estimated them. */
      size: count,
      file: z.string().min(1),
    }),
  ),
  /** Bytes on disk of everything, as the server estimated them. */
  dataSize: count,
  databases: z.array(
    z.object({
      name: z.string(),
      oid: z.string().regex(/^\d+$/),
      size: count,
      localeProvider: z.string(),
      collate: z.string(),
      ctype: z.string(),
      locale: z.string().nullable(),
      collationVersion: z.string().nullable(),
      extensions: z.array(z.object({ name: z.string(), version: z.string() })),
    }),
  ),
  /** max_connections and the others that a recovery must not have less of, shared_preload_libraries, and their like. */
  settings: z.record(z.string(), z.string()),
})

const schema = z.object({
  format: z.literal(FORMAT),
  label: z.string().refine(isLabel),
  job: z.string(),
  host: z.string(),
  cluster: z.string(),
  kind: z.enum(['dump', 'base', 'incr']),
  /** Version of Howdah that took it. */
  howdah: z.string(),
  postgres: z.object({ version: z.string(), major: z.int() }),
  systemIdentifier: z.string(),
  timeline: z.int(),
  begun: time,
  ended: time,
  /** False where the role that took it may not read the passwords of roles. */
  hasPasswords: z.boolean(),
  /** Of kind `dump`; empty for the others. */
  databases: z.array(database),
  /** Of the kinds `base` and `incr`. */
  physical: physical.optional(),
  /** Whether its data files went through age. */
  encrypted: z.boolean().default(false),
  files: z.array(file),
})

/** Everything about one backup. It never holds what a stranger must not read. */
export type Manifest = z.output<typeof schema>
export type ManifestFile = Manifest['files'][number]
export type ManifestDatabase = Manifest['databases'][number]
export type Physical = NonNullable<Manifest['physical']>

/** The bytes of a manifest. */
export function renderManifest(manifest: Manifest): Buffer {
  return Buffer.from(`${JSON.stringify(manifest, undefined, 2)}\n`)
}

/**
 * Reads a manifest back.
 * @param place where it is stored: one that says it belongs elsewhere is not believed
 * @throws {Fail} `backup-damaged`
 */
export function parseManifest(text: string, place: { label: string; cluster: string }): Manifest {
  const { label, cluster } = place
  const document = parseJson(text)
  const format = (document as { format?: unknown } | null)?.format
  if (typeof format === 'number' && format > FORMAT) {
    throw new Fail(
      'backup-damaged',
      `the manifest of ${label} has format ${format}, this version knows ${FORMAT}`,
      {
        hint: 'Use the version of Howdah that took it, or a newer one.',
      },
    )
  }
  const parsed = schema.safeParse(document)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw damaged(
      label,
      document === undefined ? 'is not JSON' : `is wrong at ${path.join('.') || 'its top'}: ${message}`,
    )
  }
  if (parsed.data.label !== label) throw damaged(label, `is that of ${parsed.data.label}`)
  if (parsed.data.cluster !== cluster) throw damaged(label, `is of the cluster "${parsed.data.cluster}"`)
  const names = new Set(parsed.data.files.map(({ name }) => name))
  const missing = parsed.data.databases.find(({ file }) => !names.has(file))
  if (missing) throw damaged(label, `names no file "${missing.file}", which database "${missing.name}" needs`)
  return parsed.data
}

/** Whoever can write a manifest must not thereby name files outside of it. */
function isKey(name: string): boolean {
  try {
    checkKey(name)
    return true
  } catch {
    return false
  }
}

function damaged(label: string, how: string): Fail {
  return new Fail('backup-damaged', `the manifest of ${label} ${how}`, {
    hint: 'Name another backup with --backup: howdah backup list',
  })
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Bytes that a backup has in the store, and bytes of what is in them. */
export function totalsOf(files: readonly ManifestFile[]): {
  readonly size: number
  readonly plainSize: number
} {
  const sum = (sizes: readonly number[]) => sizes.reduce((total, size) => total + size, 0)
  return {
    size: sum(files.map(({ size }) => size)),
    plainSize: sum(files.map(({ size, plainSize }) => plainSize ?? size)),
  }
}
