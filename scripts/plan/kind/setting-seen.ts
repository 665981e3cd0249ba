import { readFile, stat, statfs } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { userName } from '../../cluster/connect.ts'
import { exists, readTextIfAny } from '../../core/file.ts'
import { nearest } from '../../core/nearest.ts'
import { type ConfLine, includeLine, parseConf } from '../../host/conf.ts'
import { canonicalValue, type Guc } from '../guc.ts'
import type { Observe } from '../kind.ts'

/** A setting as the server has it now. */
export interface ServerSetting extends Guc {
  readonly context: string
  /** In the setting's own unit; `shown` is for people. */
  readonly setting: string
  readonly shown: string
  readonly source: string
  /** Whether the value in force comes from our file. */
  readonly isOurs: boolean
}

/** A line for a setting in another file than ours. */
export interface Elsewhere extends ConfLine {
  readonly file: string
  readonly line: number
  /** Whether it is read after our file, and so wins over it. */
  readonly isLater: boolean
}

/** Our file, those around it, and what the server makes of them. */
export interface SettingsSeen {
  readonly isThere: boolean
  readonly isClean: boolean
  readonly lines: readonly ConfLine[]
  /** Whether the server read our file after it was last written. */
  readonly isLoaded: boolean
  readonly hasFolder: boolean
  /** What postgresql.conf must become to read our folder; left out when it does. */
  readonly main?: {
    readonly path: string
    readonly content: string
    readonly mode: number
    readonly owner: string
  }
  /** By name in lower case, of the settings that matter here. */
  readonly gucs: ReadonlyMap<string, ServerSetting>
  /** Settings that wait for a restart, or would after a reload. */
  readonly pending: readonly string[]
  /** In the order in which the server reads them. */
  readonly elsewhere: readonly Elsewhere[]
  /** Problems in other files than ours. */
  readonly errors: readonly string[]
  /** Names that the server does not know, and the nearest that it does. */
  readonly unknown: readonly { readonly name: string; readonly near?: string }[]
  /** Size of the file system that holds the WAL. */
  readonly walBytes?: number
}

/**
 * Looks at our file and asks the server about it.
 * @param names settings that the host file wants, in lower case
 * @returns undefined where there are no files: no cluster yet, or a remote one
 */
export async function observeSettings(
  observe: Observe,
  file: string,
  names: readonly string[],
): Promise<SettingsSeen | undefined> {
  const { configDir, dataDir } = observe.facts
  if (!observe.cluster || configDir === '') return undefined
  const path = join(configDir, file)
  const text = await readTextIfAny(path)
  const conf = parseConf(text ?? '')
  const mainPath = join(configDir, 'postgresql.conf')
  const mainText = await readFile(mainPath, 'utf8')
  const include = includeLine(mainText, configDir)
  const relevant = [...new Set([...names, ...conf.lines.map(({ name }) => name)])]
  const server = await askServer(observe, { path, mainPath, include, relevant })
  return {
    isThere: text !== undefined,
    ...conf,
    hasFolder: await exists(dirname(path)),
    ...(include === undefined && { main: await withInclude(mainPath, mainText) }),
    isLoaded: isInForce(conf.lines, server) || (text !== undefined && (await isLoaded(observe, path))),
    ...server,
    unknown: await unknownNames(observe, names),
    ...(names.includes('max_wal_size') && { walBytes: await volumeBytes(join(dataDir, 'pg_wal')) }),
  }
}

/**
 * Whether the server has read its files since one was put in place. A rename sets the time of the
 * inode's last change, and only a successful load moves the server's (guc-file.l, PgReloadTime).
 */
export async function isLoaded(observe: Observe, path: string): Promise<boolean> {
  const [row] = await observe.query<{ at: string }>(
    'postgres',
    `select (extract(epoch from pg_conf_load_time()) * 1000)::numeric(20, 3)::text as at`,
  )
  return row === undefined || (await stat(path)).ctimeMs <= Number(row.at)
}

// A file that was put back as it was is newer than the last load, and yet all of it is in force.
function isInForce(
  lines: readonly ConfLine[],
  { gucs, elsewhere }: Pick<SettingsSeen, 'gucs' | 'elsewhere'>,
): boolean {
  const names = new Set(lines.map(({ name }) => name))
  if ([...gucs].some(([name, { isOurs }]) => isOurs && !names.has(name))) return false
  return lines.every(({ name, value }) => {
    const guc = gucs.get(name)
    if (guc?.isOurs) return canonicalValue(guc, guc.setting) === canonicalValue(guc, value)
    return guc !== undefined && elsewhere.some((line) => line.isLater && line.name === name)
  })
}

/** The line that wins over ours because it is read later, unless it says the same; or undefined. */
export function laterValue(seen: SettingsSeen, name: string, value: string): Elsewhere | undefined {
  const guc = seen.gucs.get(name)
  const later = seen.elsewhere.findLast((line) => line.isLater && line.name === name)
  if (!later || !guc) return later
  return canonicalValue(guc, value) === canonicalValue(guc, later.value) ? undefined : later
}

async function withInclude(path: string, text: string): Promise<NonNullable<SettingsSeen['main']>> {
  const { mode, uid } = await stat(path)
  const content = `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}include_dir = 'conf.d'\n`
  return { path, content, mode: mode & 0o777, owner: userName(uid) }
}

interface Place {
  readonly path: string
  readonly mainPath: string
  /** Line of postgresql.conf at which our folder is read. */
  readonly include: number | undefined
  readonly relevant: readonly string[]
}

interface FileRow {
  readonly file: string | null
  readonly line: number | null
  readonly name: string | null
  readonly value: string | null
  readonly error: string | null
}

interface SettingRow extends ServerSetting {
  readonly file: string | null
  readonly isPending: boolean
}

// The order of the two queries matters: pg_file_settings parses the files as they are on disk and
// marks in its own session what could not be taken over without a restart, lines that are gone
// included. So pending_restart then tells of both: what waits now and what would after a reload.
async function askServer(
  observe: Observe,
  place: Place,
): Promise<Pick<SettingsSeen, 'gucs' | 'pending' | 'elsewhere' | 'errors'>> {
  const files = await observe.query<FileRow>(
    'postgres',
    `select sourcefile as file, sourceline as line, lower(name) as name, setting as value, error
       from pg_file_settings order by seqno`,
  )
  const rows = await observe.query<SettingRow>(
    'postgres',
    `select name, vartype, unit, enumvals, min_val as "minVal", max_val as "maxVal", context, setting,
            case source when 'session' then reset_val
                 else coalesce(current_setting(name, true), setting) end as shown, source, sourcefile as file,
            coalesce(sourcefile = $2, false) as "isOurs", pending_restart as "isPending"
       from pg_settings where lower(name) = any($1) or sourcefile = $2 or pending_restart order by name`,
    [place.relevant, place.path],
  )
  const relevant = new Set(place.relevant)
  const others = files.filter((row) => row.file !== place.path)
  return {
    gucs: new Map(
      rows.map(({ file: _file, isPending: _isPending, ...guc }) => [guc.name.toLowerCase(), guc]),
    ),
    pending: rows.filter(({ isPending }) => isPending).map(({ name }) => name.toLowerCase()),
    elsewhere: others
      .filter(({ name }) => name !== null && relevant.has(name))
      .map((row) => ({
        name: row.name!,
        value: row.value ?? '',
        file: row.file!,
        line: row.line!,
        isLater: isReadLater(row, place),
      })),
    errors: others.filter(isProblem).map(({ file, line, name, error }) => {
      return [file && `${file}:${line}`, name, error].filter(Boolean).join(': ')
    }),
  }
}

// What a restart would bring is no problem of a file (guc.c, ProcessConfigFileInternal).
function isProblem({ error }: FileRow): boolean {
  if (error === null || error === 'setting could not be applied') return false
  return !/^parameter ".*" cannot be changed without restarting the server$/.test(error)
}

function isReadLater({ file, line }: FileRow, { path, mainPath, include }: Place): boolean {
  if (basename(file!) === 'postgresql.auto.conf') return true
  if (dirname(file!) === dirname(path)) return basename(file!) > basename(path)
  return file === mainPath && include !== undefined && line! > include
}

async function unknownNames(observe: Observe, names: readonly string[]): Promise<SettingsSeen['unknown']> {
  const text = 'select lower(name) as name from pg_settings'
  const rows = await observe.query<{ name: string }>('postgres', text)
  const all = new Set(rows.map(({ name }) => name))
  return names
    .filter((name) => all.size > 0 && !all.has(name))
    .map((name) => {
      const near = nearest(name, all)
      return near === undefined ? { name } : { name, near }
    })
}

async function volumeBytes(path: string): Promise<number> {
  const { blocks, bsize } = await statfs(path)
  return blocks * bsize
}
