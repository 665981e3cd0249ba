import { basename, dirname, isAbsolute, join, resolve } from 'node:path'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { didYouMean } from '../core/nearest.ts'
import type { DatabaseSpec, Host } from '../host/schema.ts'
import type { LoadedHost } from './open.ts'

/** Where the files of this program are. */
const PROGRAM = join(import.meta.dirname, '../..')

/**
 * Where the migrations of a database are: beside the host file, or among those of this program. What is nowhere yet
 * belongs beside the host file.
 */
export async function migrationsFolder({ path }: LoadedHost, { migrations }: DatabaseSpec): Promise<string> {
  const { dir } = migrations!
  if (isAbsolute(dir)) return dir
  const beside = resolve(dirname(path), dir)
  const own = join(PROGRAM, dir)
  const isOwn = own.startsWith(join(PROGRAM, 'sql/')) && !(await exists(beside)) && (await exists(own))
  return isOwn ? own : beside
}

/** The folder of the named queries of a database, which is beside that of its migrations. */
export async function queriesFolder(loaded: LoadedHost, spec: DatabaseSpec): Promise<string> {
  return join(dirname(await migrationsFolder(loaded, spec)), 'queries')
}

/**
 * The database of a profile, by the name of the database or of the folder that its SQL is in. Pure.
 * @throws {Fail} `usage`
 */
export function profileDatabase({ databases }: Host, profile: string): string {
  const found = Object.entries(databases).flatMap(([name, { migrations }]) =>
    migrations === undefined ? [] : [{ name, profile: folderName(migrations.dir) ?? name }],
  )
  const one = found.find((one) => one.name === profile) ?? found.find((one) => one.profile === profile)
  if (one) return one.name
  const names = found.map((one) => one.profile)
  throw new Fail('usage', `the host file has no profile "${profile}"${didYouMean(profile, names)}`, {
    hint:
      names.length === 0
        ? 'A profile is a database with [databases.NAME.migrations] dir = "sql/PROFILE/migrations".'
        : `There is: ${names.join(', ')}`,
  })
}

/** `walt` of `sql/walt/migrations`; undefined without such a folder. */
function folderName(dir: string): string | undefined {
  const name = basename(dirname(dir))
  return /^\.{0,2}$/.test(name) ? undefined : name
}
