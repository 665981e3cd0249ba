import type { Client, QueryArrayConfig, QueryArrayResult } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import { ident, literal } from '../cluster/sql.ts'
import { Fail, messageOf } from '../core/fail.ts'
import type { Profile } from './profile.ts'
import type { NamedQuery } from './query-file.ts'

/** A query, and what it is asked with. */
export interface Question {
  readonly cluster: Cluster
  readonly profile: Pick<Profile, 'database' | 'role'>
  readonly query: NamedQuery
  /** In the order of its parameters. */
  readonly values: readonly (string | null)[]
  readonly timeoutSeconds: number
  /** What it did is taken back. */
  readonly isRehearsal?: boolean
}

/** What a query gave. */
export interface Answer {
  readonly columns: readonly string[]
  /** Documents are objects; times, and what JavaScript would round, are texts as the server writes them. */
  readonly rows: readonly (readonly unknown[])[]
  /** Rows that were read or changed; null where the server counts none, as of TRUNCATE. */
  readonly count: number | null
}

/** A row that somebody else holds is not waited for as long as an answer. */
const LOCK_TIMEOUT = '5s'

/** What a database or a role has set for itself is not to bend how times are written, nor which day 02/03 is: none. */
const FORMS = `set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'`

/**
 * Asks a query in a transaction of its own, as the role that owns the tables; one that reads cannot write.
 * One that is to change one row changes nothing when there is none of it, or more.
 *
 * SET ROLE guards against mistakes only: a function of that role can RESET ROLE, and is the superuser then (SET
 * ROLE). Whoever owns a database of which the superuser asks something is trusted.
 * @throws {Fail} `usage` for a value that is not of its type, `plan-impossible` when not one row is changed,
 *   `server-failed`, and what a connection throws
 */
export function ask(question: Question): Promise<Answer> {
  const { cluster, profile, query, values, timeoutSeconds, isRehearsal } = question
  const timeout = Math.ceil(timeoutSeconds * 1000)
  const setup = `set statement_timeout = ${timeout}; set lock_timeout = '${LOCK_TIMEOUT}'; ${FORMS}`
  return withSession({ cluster, database: profile.database, setup }, async (client) => {
    await client.query(query.effect === 'reads' ? 'begin read only' : 'begin read write')
    if (profile.role !== undefined) await client.query(`set local role ${ident(profile.role)}`)
    await checkValues(client, query, values)
    const answer = answerOf(await answered(client, query, values))
    if (query.effect !== 'reads' && query.effect.rows === 'one') assertOne(query, answer)
    await client.query(isRehearsal ? 'rollback' : 'commit') // what is taken back notifies nobody
    return answer
  })
}

/** Its SQLSTATE (src/backend/utils/errcodes.txt). */
const SYNTAX_ERROR = '42601'

/** Whether it changes rows that the server counts, and holds nothing up while it does. Pure. */
export function isCounted({ effect, sql }: NamedQuery): boolean {
  return effect !== 'reads' && /^(insert|update|delete|merge|with)\b/i.test(sql)
}

/** @throws {Fail} `file-unreadable` when the server cannot read the statement, or finds more than one */
async function answered(
  client: Client,
  query: NamedQuery,
  values: readonly (string | null)[],
): Promise<QueryArrayResult> {
  try {
    return await client.query(await statement(client, query, values))
  } catch (error) {
    if ((error as { code?: string }).code !== SYNTAX_ERROR) throw error
    throw new Fail('file-unreadable', `query "${query.name}.sql" is not one statement: ${messageOf(error)}`, {
      hint: 'sql/README.md shows how such a file is written.',
      cause: error,
    })
  }
}

/** By the extended protocol, which takes one statement only. Its parameters have their types by PREPARE. */
async function statement(
  client: Client,
  { sql, parameters }: NamedQuery,
  values: readonly (string | null)[],
): Promise<QueryArrayConfig & { readonly queryMode: 'extended' }> {
  const mode = { rowMode: 'array', queryMode: 'extended' } as const
  if (parameters.length === 0) return { text: sql, ...mode }
  const types = parameters.map(({ type }) => type).join(', ')
  await client.query({ text: `prepare howdah_query (${types}) as ${sql}`, ...mode })
  const given = values.map((value) => (value === null ? 'null' : literal(value))).join(', ')
  return { text: `execute howdah_query (${given})`, ...mode }
}

/** The server knows best what a timestamptz is; of the whole query it would not say which value it means. */
async function checkValues(
  client: Client,
  query: NamedQuery,
  values: readonly (string | null)[],
): Promise<void> {
  for (const [index, { name, type }] of query.parameters.entries()) {
    await client.query(`select cast($1 as ${type})`, [values[index]]).catch((error: unknown) => {
      const code = (error as { code?: string }).code
      if (code === undefined || !/^22|^42704$/.test(code)) throw error
      throw new Fail('usage', `${query.name}: ${name} is to be of type ${type}: ${messageOf(error)}`, {
        cause: error,
      })
    })
  }
}

function answerOf({ fields, rows, rowCount }: QueryArrayResult): Answer {
  return {
    columns: distinct(fields.map(({ name }) => name)),
    rows: (rows as unknown[][]).map((row) =>
      row.map((value, index) => valueOf(value, fields[index]!.dataTypeID)),
    ),
    count: rowCount,
  }
}

/** Two columns may be called the same; an object has room for one of each name. */
function distinct(names: readonly string[]): string[] {
  const taken = new Set<string>()
  for (const name of names) {
    let free = name
    for (let number = 2; taken.has(free); number++) free = `${name}_${number}`
    taken.add(free)
  }
  return [...taken]
}

/** `json` and `jsonb` (src/include/catalog/pg_type.dat). */
const JSON_TYPES: ReadonlySet<number> = new Set([114, 3802])
/** A number that JavaScript might round. */
const LONG_NUMBER = /[\d.]{16}/

function valueOf(value: unknown, type: number): unknown {
  const isDocument = typeof value === 'string' && JSON_TYPES.has(type) && !LONG_NUMBER.test(value)
  return isDocument ? (JSON.parse(value) as unknown) : value
}

function assertOne({ name }: NamedQuery, { count }: Answer): void {
  if (count === 1) return
  throw new Fail(
    'plan-impossible',
    `${name} is to change one row, and there ${count === 0 ? 'is none' : `are ${count}`} like that: nothing was changed`,
    { hint: 'Look first which rows there are, by a query that reads.' },
  )
}
