import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { LoadedHost } from '../cluster/open.ts'
import { profileDatabase, queriesFolder } from '../cluster/profile.ts'
import { Fail } from '../core/fail.ts'
import { isMissing, readText, reasonOf } from '../core/file.ts'
import { didYouMean } from '../core/nearest.ts'
import { type NamedQuery, parseQuery } from './query-file.ts'

/** A database, and the questions to it that have names. */
export interface Profile {
  readonly name: string
  readonly database: string
  /** Whose rights a query has: of whoever owns the tables. Undefined: the superuser's. */
  readonly role: string | undefined
  readonly queries: readonly NamedQuery[]
  /** Where their files are. */
  readonly folder: string
}

/**
 * Reads the queries of a profile.
 * @throws {Fail} `usage`, `file-unreadable`
 */
export async function openProfile(loaded: LoadedHost, name: string): Promise<Profile> {
  const database = profileDatabase(loaded.host, name)
  const spec = loaded.host.databases[database]!
  const folder = await queriesFolder(loaded, spec)
  const files = await readdir(folder).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw new Fail('file-unreadable', `cannot read the folder of queries "${folder}": ${reasonOf(error)}`, {
      cause: error,
    })
  })
  const queries: NamedQuery[] = []
  for (const file of files.filter((file) => file.endsWith('.sql')).toSorted())
    queries.push(parseQuery(file.slice(0, -'.sql'.length), await readText(join(folder, file))))
  return { name, database, role: spec.migrations?.role ?? spec.owner, queries, folder }
}

/**
 * One query by its name.
 * @throws {Fail} `usage`, with the nearest name
 */
export function findQuery({ name: profile, queries, folder }: Profile, name: string): NamedQuery {
  const found = queries.find((query) => query.name === name)
  if (found) return found
  const names = queries.map((query) => query.name)
  throw new Fail('usage', `${profile} has no query "${name}"${didYouMean(name, names)}`, {
    hint:
      names.length === 0
        ? `Write one: ${join(folder, `${name}.sql`)}`
        : `See all: howdah inspect query ${profile}`,
  })
}
