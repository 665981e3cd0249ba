import { readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import process from 'node:process'
import pg from 'pg'
import { Fail, messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import { type Secret } from '../core/secret.ts'

/** Where a connection goes. Everything is explicit: PG* variables of the operator's shell are not asked. */
export interface Target {
  /** Folder of a Unix socket, or a host name. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database: string
  readonly password?: Secret | undefined
  readonly ssl?: boolean | { readonly rejectUnauthorized: boolean; readonly ca?: string }
  /** OS user that peer authentication is to see; only root can be another one than it is. */
  readonly peer?: string | undefined
  readonly applicationName: string
  readonly replication?: boolean | undefined
  /** Names the cluster in messages. */
  readonly label: string
}

for (const variable of Object.keys(process.env)) {
  if (variable.startsWith('PG')) delete process.env[variable]
}

/**
 * A connected client, with times and big numbers as text as the server sends them.
 * @throws {Fail} `server-unreachable`, `server-denied`, `server-failed`
 */
export async function connect(target: Target): Promise<pg.Client> {
  const client = new pg.Client({
    host: target.host,
    port: target.port,
    user: target.user,
    database: target.database,
    password: target.password?.reveal() ?? '',
    ssl: target.ssl ?? false,
    application_name: target.applicationName,
    fallback_application_name: 'howdah',
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    types: { getTypeParser },
    ...(target.replication && { replication: 'true' }),
  })
  client.on('error', () => {}) // a lost connection rejects the query under way, or the next one
  client.on('notice', (notice) => {
    if (notice.severity === 'WARNING') log('warning', `${target.label}: ${notice.message ?? ''}`)
  })
  try {
    await asPeer(target.peer, () => client.connect())
    return client
  } catch (cause) {
    await client.end().catch(() => {})
    throw connectionFail(target, cause)
  }
}

/**
 * Runs the start of a connection under the effective user id of an OS user. The kernel notes the
 * peer's credentials at connect(2), which Node calls for a Unix socket before `begin` returns; so
 * the id is back before anything else of this process can run.
 */
function asPeer<T>(user: string | undefined, begin: () => Promise<T>): Promise<T> {
  if (user === undefined || process.geteuid?.() !== 0 || user === userInfo().username) return begin()
  process.seteuid!(userId(user).uid)
  try {
    return begin()
  } finally {
    process.seteuid!(0)
  }
}

/**
 * The ids of an OS user.
 * @throws {Fail} `not-permitted` when there is none of that name
 */
export function userId(user: string): { readonly uid: number; readonly gid: number } {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${user}:`))
  const [, , uid, gid] = line?.split(':') ?? []
  if (uid === undefined || gid === undefined) {
    throw new Fail('not-permitted', `there is no OS user "${user}"`, { hint: 'Is PostgreSQL installed?' })
  }
  return { uid: Number(uid), gid: Number(gid) }
}

/** The name of an OS user by its id, or the id as text. */
export function userName(uid: number): string {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.split(':')[2] === String(uid))
  return line?.split(':')[0] ?? String(uid)
}

// bool, int2, int4, oid, json and arrays of text are parsed; everything else stays the text that the
// server sent: JavaScript's dates lose microseconds and its numbers lose int8.
const PARSED = new Set([16, 21, 23, 26, 114, 1009, 1003, 1005, 1007, 1028])

const parserOf = pg.types.getTypeParser as (oid: number, format?: string) => (value: string) => unknown

function getTypeParser(oid: number, format?: 'text' | 'binary'): (value: string) => unknown {
  if (PARSED.has(oid)) return parserOf(oid, format)
  return (value) => value
}

function connectionFail(target: Target, cause: unknown): Fail {
  const { code } = cause as { code?: string }
  const what = `cannot connect to ${target.label}, database "${target.database}", as role "${target.user}"`
  const text = messageOf(cause)
  if (code === 'EACCES' || code === 'EPERM') {
    return new Fail('server-denied', `${what}: OS user "${userInfo().username}" may not use its socket`, {
      hint: `Run this as root${target.peer ? `, or as ${target.peer}` : ''}.`,
      cause,
    })
  }
  if (code === '28000' || code === '28P01') {
    const needs = target.peer ? `Run this as root, or as OS user ${target.peer}.` : 'Is the password right?'
    return new Fail('server-denied', `${what}: ${text}`, { hint: needs, cause })
  }
  if (code === '3D000' || code === '53300' || code === '42501' || code === '55000') {
    return new Fail('server-failed', `${what}: ${text}`, { cause })
  }
  return new Fail('server-unreachable', `${what}: ${code === undefined ? text : reasonOf(code, text)}`, {
    hint: target.host.startsWith('/') ? `Is it running? See: howdah provision plan` : 'Is the address right?',
    cause,
  })
}

function reasonOf(code: string, text: string): string {
  if (code === 'ENOENT') return 'there is no socket, so no server runs there'
  if (code === 'ECONNREFUSED') return 'no server listens there'
  return text
}
