import { parse, stringify, type TomlTable } from 'smol-toml'
import { z } from 'zod'
import { applyOverride, overrideKeys } from './override.ts'

/** Where a personal database is put, and by which programs it runs. */
export interface Surroundings {
  /** A folder of the user's own. */
  readonly folder: string
  readonly major: number
  readonly bindir: string
}

/** A file of MagAO-X's own `xtelemdb`: which files to read, and the database to put them into. */
export interface PersonalFile {
  /** Who it belongs to, and who the database belongs to. */
  readonly user: string
  /** Name of the database. */
  readonly database: string
  /** A host file that says the same; of a database elsewhere without regard to where this one would be put. */
  toHost(surroundings: Surroundings): string
  /** It is on this host, in a cluster of the user's own. */
  readonly isHere: boolean
}

const DEFAULTS = { user: 'xtelem', database: 'xtelem', port: 5432 } as const

const schema = z.strictObject({
  data_dirs: z.array(z.string()).optional(),
  hostname: z.string().optional(),
  common_path_prefix: z.string().optional(),
  database: z
    .strictObject({
      host: z.string().optional(),
      port: z.int().min(1).max(65_535).optional(),
      user: z.string().optional(),
      database: z.string().optional(),
      password_file: z.string().optional(),
    })
    .optional(),
  logdump_exe: z.string().optional(),
  parallel_jobs: z.int().optional(),
  limit: z.int().optional(),
  ignore_patterns: z.record(z.string(), z.array(z.string())).optional(),
})

/** Whether an `a.b=value` argument names a key of such a file; others are those of a host file. Pure. */
export function isPersonalOverride(override: string): boolean {
  return Object.hasOwn(schema.shape, overrideKeys(override)[0]!)
}

/**
 * Reads a file of `xtelemdb`; undefined when a text is none, and is to be read as a host file, with its errors. Pure.
 * @param overrides `a.b=value` arguments, of which those count that name keys of such a file
 * @throws {Fail} `usage` for an override that nobody understands
 */
export function readPersonal(text: string, overrides: readonly string[] = []): PersonalFile | undefined {
  if (/^format\s*=/m.test(text)) return undefined // a host file, which need not be parsed twice
  const document = tomlOf(text)
  if (document === undefined) return undefined
  for (const override of overrides.filter(isPersonalOverride)) applyOverride(document, override)
  const parsed = schema.safeParse(document)
  if (!parsed.success || (parsed.data.data_dirs === undefined && parsed.data.database === undefined))
    return undefined
  const {
    host,
    port,
    password_file: passwordFile,
    user = DEFAULTS.user,
    database = DEFAULTS.database,
  } = parsed.data.database ?? {}
  const isHere = host === undefined || ['localhost', '127.0.0.1', '::1'].includes(host)
  const migrations = { dir: 'sql/xtelem/migrations' }
  return {
    user,
    database,
    isHere,
    toHost: ({ folder, major, bindir }) => {
      const here = {
        kind: 'private',
        major,
        bindir,
        data_dir: `${folder}/data`,
        socket_dir: `${folder}/socket`,
        superuser: user,
        ...(port !== undefined && { port }),
      }
      const there = {
        kind: 'remote',
        url: `postgres://${encodeURIComponent(user)}@${host}:${port ?? DEFAULTS.port}/${encodeURIComponent(database)}`,
        ...(passwordFile !== undefined && { password: { file: passwordFile } }),
      }
      return stringify({
        format: 1,
        host: { name: parsed.data.hostname ?? 'personal', state_dir: `${folder}/state` },
        postgres: isHere ? here : there,
        databases: { [database]: { migrations } },
        reingest: { telem: reingestOf(parsed.data, database) },
      })
    },
  }
}

/** What is read into the database, with what `xtelemdb` takes where its file says nothing. */
function reingestOf(file: z.output<typeof schema>, database: string): TomlTable {
  const prefix = file.common_path_prefix ?? '/opt/MagAOX'
  const dirs = file.data_dirs ?? ['logs', 'rawimages', 'telem', 'cacao']
  const logdump = (file.logdump_exe ?? '/opt/MagAOX/bin/logdump').trim().split(/\s+/)
  const { files, directories } = file.ignore_patterns ?? {}
  return {
    database,
    data_dirs: dirs.map((dir) => (dir.startsWith('/') ? dir : `${prefix}/${dir}`)),
    decoders: { '.bintel': [...logdump, '--ext=.bintel', '-J', '-F'] },
    ...(file.hostname !== undefined && { hostname: file.hostname }),
    ...(file.parallel_jobs !== undefined && { jobs: file.parallel_jobs }),
    ...(file.limit !== undefined && { limit: file.limit }),
    ...(files !== undefined && { ignore_files: files }),
    ...(directories !== undefined && { ignore_folders: directories }),
  }
}

function tomlOf(text: string): TomlTable | undefined {
  try {
    return parse(text)
  } catch {
    return undefined
  }
}
