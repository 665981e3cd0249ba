import { readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import process from 'node:process'
import { setImmediate as nextTurn } from 'node:timers/promises'
import pg from 'pg'
import { Fail, messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { Secret } from '../core/secret.ts'
import { currentUser } from '../core/user.ts'

/** Where a connection goes. Everything is explicit: PG* variables of the operator's shell are not asked. */
export interface Target {
  /** Folder of a Unix socket, or a host name. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database: string
  readonly password?: Secret | undefined
  readonly ssl?:
    | boolean
    | {
        readonly rejectUnauthorized: boolean
        readonly ca?: string
        /** Finds fault with the name in the certificate; default: it must be the host's. */
        readonly checkServerIdentity?: () => undefined
      }
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
    // No SQL can be said there; a server of its own time limits would end it in the midst of a backup.
    ...(target.replication && {
      replication: 'true',
      options: '-c statement_timeout=0 -c idle_session_timeout=0',
      ...(!target.ssl && { stream: streamingSocket }),
    }),
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
    throw cause instanceof Fail ? cause : connectionFail(target, cause)
  }
}

/** What is read at once from a server that streams. */
const READ_BYTES = 256 * 1024

/**
 * A socket that reads into the same memory again and again: new memory for each piece of a long stream
 * costs more than everything else that is done to it. Whoever listens to `bytes` is shown that memory and
 * must be done with it on return; only where nobody does is there `data` as of any socket.
 */
function streamingSocket(): Socket {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
  const callback = (count: number) => {
    const bytes = buffer.subarray(0, count)
    if (!socket.emit('bytes', bytes)) socket.emit('data', Buffer.from(bytes))
    return true // go on
  }
  const socket: Socket = new Socket({ onread: { buffer, callback } })
  return socket
}

/**
 * Runs the start of a connection under the effective user id of an OS user. The kernel notes the
 * peer's credentials at connect(2), which Node calls for a Unix socket before `begin` returns; so
 * the id is back before any other code of this process can run. But the id is one for all threads,
 * and those that work on files would be denied theirs, or make some that belong to that user: so
 * this waits for a moment in which no thread does.
 */
async function asPeer<T>(user: string | undefined, begin: () => Promise<T>): Promise<T> {
  if (user === undefined || process.geteuid?.() !== 0 || user === 'root') return begin()
  const { uid } = userId(user)
  for (const deadline = Date.now() + 2000; worksOnFiles() && Date.now() < deadline;) await nextTurn()
  process.seteuid!(uid)
  try {
    return begin()
  } finally {
    process.seteuid!(0)
  }
}

function worksOnFiles(): boolean {
  return process.getActiveResourcesInfo().some((resource) => resource.startsWith('FSReq'))
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
const [NAMES, TEXTS] = [1003, 1009]
const PARSED = new Set([16, 21, 23, 26, 114, TEXTS, NAMES, 1005, 1007, 1028])

const parserOf = pg.types.getTypeParser as (oid: number, format?: string) => (value: string) => unknown

function getTypeParser(oid: number, format?: 'text' | 'binary'): (value: string) => unknown {
  if (PARSED.has(oid)) return parserOf(oid === NAMES ? TEXTS : oid, format)
  return (value) => value
}

function peerHint(osUser: string, role: string): string {
  const isAble = currentUser() === osUser || process.getuid?.() === 0
  if (!isAble) return `Run this as root, or as OS user ${osUser}.`
  if (role === osUser) return `Its pg_hba.conf must let it in: local all ${role} peer`
  return `It runs as OS user "${osUser}": is postgres.superuser = "${osUser}" in the host file?`
}

function connectionFail(target: Target, cause: unknown): Fail {
  const { code } = cause as { code?: string }
  const what = `cannot connect to ${target.label}, database "${target.database}", as role "${target.user}"`
  const text = messageOf(cause)
  if (code === 'EACCES' || code === 'EPERM') {
    return new Fail('server-denied', `${what}: OS user "${currentUser()}" may not use its socket`, {
      hint: `Run this as root${target.peer ? `, or as ${target.peer}` : ''}.`,
      cause,
    })
  }
  if (code === '28000' || code === '28P01') {
    const needs = target.peer ? peerHint(target.peer, target.user) : 'Is the password right?'
    return new Fail('server-denied', `${what}: ${text}`, { hint: needs, cause })
  }
  if (text.startsWith('SASL:')) {
    if (target.password)
      return new Fail('server-denied', `${what}: ${text}`, { hint: 'Is it PostgreSQL?', cause })
    const hint = 'Name it in the host file: postgres.password = { file = ... }'
    return new Fail('server-denied', `${what}: it asks for a password, and there is none`, { hint, cause })
  }
  const refused = REFUSED[code ?? '']
  if (refused !== undefined) return new Fail('server-failed', `${what}: ${text}`, { hint: refused, cause })
  return new Fail('server-unreachable', `${what}: ${reasonOf(code, text)}`, {
    hint: unreachableHint(target, text),
    cause,
  })
}

// By SQLSTATE (src/backend/utils/errcodes.txt): the server answers, but not for this database or role.
const REFUSED: Readonly<Record<string, string>> = {
  '3D000': 'Is the name right? A host file makes it: howdah provision apply',
  '53300': 'Every connection that it allows is in use: end some, or raise max_connections.',
  '42501': 'Let the role in: grant connect on the database, or name another role.',
  '55000': 'Its allow_connections is false: set it to true in the host file, or leave the database out.',
}

function unreachableHint({ host, ssl }: Target, text: string): string {
  if (host.startsWith('/')) return 'Is it running? See: howdah provision plan'
  if (text.includes('does not support SSL'))
    return 'Set postgres.sslmode = "disable", or ssl = on in the server.'
  if (ssl && /certificate|altnames/i.test(text)) {
    return 'Name the certificate of its authority in postgres.ca_file, and the server as the certificate does.'
  }
  return 'Is the address right?'
}

function reasonOf(code: string | undefined, text: string): string {
  if (code === 'ENOENT') return 'there is no socket, so no server runs there'
  if (code === 'ECONNREFUSED') return 'no server listens there'
  return text
}
