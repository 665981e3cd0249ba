import type { Client } from 'pg'
import { ident, literal } from '../cluster/sql.ts'
import { Fail, messageOf } from '../core/fail.ts'
import type { Migration } from './file.ts'
import { DBMATE_TABLE } from './scratch.ts'

/**
 * The migrations whose work a database without a ledger has already: those that dbmate has noted, or the application
 * itself in its own table, or those that their probes find.
 * @param mirrorTable in which the application notes versions
 * @throws {Fail} `usage` when nothing says it; `migration-diverged` when what says it makes no sense
 */
export async function notedBefore(
  client: Client,
  migrations: readonly Migration[],
  mirrorTable: string | undefined,
): Promise<Migration[]> {
  const byDbmate = await versionsIn(client, `public.${DBMATE_TABLE}`)
  if (byDbmate) return knownOf(migrations, byDbmate, 'dbmate')
  const byMirror = mirrorTable === undefined ? undefined : await versionsIn(client, mirrorTable)
  if (byMirror && byMirror.length > 0) return knownOf(migrations, byMirror, 'the application')
  if (migrations.some(({ probe }) => probe !== undefined)) return probed(client, migrations)
  throw new Fail(
    'usage',
    `which version has the schema of this database? It has no "${DBMATE_TABLE}" of dbmate's, and no file has a "-- probe:"`,
    { hint: 'Say it: howdah migrate adopt VERSION' },
  )
}

async function versionsIn(client: Client, table: string): Promise<string[] | undefined> {
  const name = table.split('.').map(ident).join('.')
  const { rows: found } = await client.query<{ there: boolean }>(
    `select to_regclass(${literal(name)}) is not null as there`,
  )
  if (!found[0]!.there) return undefined
  const { rows } = await client.query<{ version: string }>(`select version::text from ${name} order by 1`)
  return rows.map(({ version }) => version)
}

function knownOf(migrations: readonly Migration[], versions: readonly string[], by: string): Migration[] {
  const known = new Set(versions.map(BigInt))
  const unknown = versions.find(
    (version) => !migrations.some((migration) => BigInt(migration.version) === BigInt(version)),
  )
  if (unknown !== undefined)
    throw new Fail('migration-diverged', `${by} has applied version ${unknown}, and there is no file of it`)
  return migrations.filter(({ version }) => known.has(BigInt(version)))
}

/** Up to the last one that is found; one before it that is not there means another history. */
async function probed(client: Client, migrations: readonly Migration[]): Promise<Migration[]> {
  const found: { migration: Migration; isThere: boolean | undefined }[] = []
  for (const migration of migrations) found.push({ migration, isThere: await isThere(client, migration) })
  const last = found.findLastIndex((one) => one.isThere)
  const gap = found.slice(0, last + 1).find((one) => one.isThere === false)
  if (gap !== undefined) {
    const { migration } = found[last]!
    throw new Fail(
      'migration-diverged',
      `the database has what ${migration.file} makes, and not what ${gap.migration.file} makes before it`,
      { hint: 'Look at both files; then say which version it has: howdah migrate adopt VERSION' },
    )
  }
  if (last === -1) {
    throw new Fail('plan-impossible', 'the database has nothing of what the migrations make', {
      hint: 'There is nothing to adopt. Run: howdah migrate up',
    })
  }
  return found.slice(0, last + 1).map(({ migration }) => migration)
}

/** Undefined when it has no probe. A probe writes nothing. */
async function isThere(client: Client, { probe, file }: Migration): Promise<boolean | undefined> {
  if (probe === undefined) return undefined
  await client.query('begin read only')
  try {
    const { rows } = await client.query({ text: probe, rowMode: 'array' })
    const [[value] = []] = rows as unknown[][]
    if (typeof value === 'boolean') return value
    throw new Fail(
      'migration-invalid',
      `${file}: its probe is to say true or false, and says ${JSON.stringify(value ?? null)}`,
    )
  } catch (cause) {
    if (cause instanceof Fail) throw cause
    throw new Fail('migration-invalid', `${file}: its probe cannot be asked: ${messageOf(cause)}`, { cause })
  } finally {
    await client.query('rollback')
  }
}
