#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Looks into the databases of a host: questions that have names, tables, notifications, psql.
 *
 *     howdah inspect query lablink -c conf/lablink.toml
 *
 * `listen` goes on until SIGINT or SIGTERM, and ends with 0. Exit codes: 0 done, 2 usage, 10 host file,
 * 30-33 server, 40 hazard, 42 not one row.
 */
import process from 'node:process'
import { text as textOf } from 'node:stream/consumers'
import { backupBefore } from './backup/before.ts'
import { type LoadedHost, loadHost, requireCluster } from './cluster/open.ts'
import { profileDatabase } from './cluster/profile.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import { become } from './core/exec.ts'
import { type Code, Fail } from './core/fail.ts'
import { interrupted } from './core/interrupt.ts'
import { parseDuration } from './core/quantity.ts'
import { didYouMean } from './core/nearest.ts'
import { listTables, showTable, showTables, tablesNamed } from './inspect/list.ts'
import { type Heard, listen } from './inspect/listen.ts'
import { findQuery, openProfile, type Profile } from './inspect/profile.ts'
import { psqlProgram } from './inspect/psql.ts'
import { ask, isCounted, type Question } from './inspect/query.ts'
import { type NamedQuery, valuesOf } from './inspect/query-file.ts'
import { countText, oneLine, rowObjects, showAnswer, showQueries, showQuestion } from './inspect/show.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'server-unreachable',
  'server-denied',
  'cluster-mismatch',
]

await main({
  name: 'inspect',
  summary: 'ask named queries, list tables, listen to notifications, open psql',
  example: 'howdah inspect query lablink -c conf/lablink.toml',
  verbs: [
    {
      name: 'query',
      summary: "ask one of a profile's named queries; without a name, say which there are",
      args: ['<profile>', '[name]', '[values...]'],
      options: [
        { flags: '--stdin <parameter>', help: 'this one is read from the standard input' },
        { flags: '--timeout <time>', help: 'how long an answer may take', default: '1min' },
      ],
      common: ['file', 'plan', 'allow'],
      fails: [...FAILS, 'server-failed', 'hazard-refused', 'plan-impossible', 'lock-held', 'backup-failed'],
      run: query,
    },
    {
      name: 'list',
      summary: 'say which tables a profile has, or what belongs to one of them',
      args: ['<profile>', '[table]'],
      common: ['file'],
      fails: [...FAILS, 'server-failed'],
      run: list,
    },
    {
      name: 'listen',
      summary: 'print the notifications of a channel as they come; not through a pool of transactions',
      args: ['<channel>'],
      options: [
        { flags: '--database <name>', help: 'this one; default: the only one' },
        { flags: '--count <n>', help: 'end after so many' },
      ],
      common: ['file'],
      fails: [...FAILS, 'server-failed'],
      isService: true,
      run: hear,
    },
    {
      name: 'psql',
      summary: "open psql in a profile's database, as the role that owns it; its options after --",
      args: ['<profile>', '[arguments...]'],
      common: ['file'],
      fails: FAILS,
      run: openShell,
    },
  ],
})

async function query(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const [profileName, name, ...args] = call.args
  const profile = await openProfile(loaded, profileName!)
  if (name === undefined) return listQueries(profile)
  const named = findQuery(profile, name)
  const timeoutSeconds = secondsOf(call)
  const values = valuesOf(named, [...args, ...(await fromInput(call))])
  const question = { profile, query: named, values, timeoutSeconds }
  if (call.planOnly) return planQuery(loaded, question, call.json)
  assertAllowed(call, named)
  const cluster = await requireCluster(loaded.host)
  if (named.needsBackup) await backupBefore(loaded, profile.database, { planOnly: false, json: call.json })
  const answer = await ask({ cluster, ...question })
  return {
    text: showAnswer(named, answer),
    result: { columns: answer.columns, rows: rowObjects(answer), count: answer.count },
  }
}

/** What a query would do, and to how many rows: it is done and taken back, where the server counts them. */
async function planQuery(
  loaded: LoadedHost,
  question: Omit<Question, 'cluster'>,
  json: boolean,
): Promise<Outcome> {
  const { profile, query, values } = question
  const lines: string[] = []
  const backup = query.needsBackup
    ? await backupBefore(loaded, profile.database, { planOnly: true, json })
    : undefined
  if (backup) lines.push(`a backup by the job ${backup.job} first`)
  lines.push(showQuestion(query, values))
  const count = isCounted(query)
    ? (await ask({ cluster: await requireCluster(loaded.host), ...question, isRehearsal: true })).count
    : null
  if (count !== null) lines.push(`would be: ${countText(query, count)}`)
  return { text: lines.join('\n'), result: { sql: query.sql, values, backup: backup?.job ?? null, count } }
}

function listQueries(profile: Profile): Outcome {
  return {
    text: showQueries(profile),
    result: { queries: profile.queries.map(({ sql: _sql, ...rest }) => rest) },
  }
}

async function fromInput({ options }: Call): Promise<string[]> {
  const { stdin } = options
  return typeof stdin === 'string' ? [`${stdin}=${await textOf(process.stdin)}`] : []
}

function secondsOf({ options }: Call): number {
  const seconds = parseDuration(String(options['timeout']))
  if (seconds !== undefined && seconds > 0) return seconds
  throw new Fail('usage', `--timeout: "${String(options['timeout'])}" is no time`, {
    hint: 'A time is 30s or 5min.',
  })
}

function assertAllowed({ allow }: Call, { name, effect }: NamedQuery): void {
  if (effect === 'reads' || effect.verb === 'changes' || allow.has('deletes-data')) return
  throw new Fail('hazard-refused', `${name} deletes rows`, {
    hint: 'Look at --plan, then say --allow deletes-data.',
  })
}

async function list(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const [profile, wanted] = call.args
  const database = profileDatabase(loaded.host, profile!)
  const tables = await listTables(await requireCluster(loaded.host), database)
  if (wanted === undefined) return { text: showTables(tables), result: { database, tables } }
  const found = tablesNamed(tables, wanted)
  return { text: found.map(showTable).join('\n\n'), result: { database, tables: found } }
}

async function hear(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const database = oneDatabase(Object.keys(loaded.host.databases), call.options['database'])
  const count = countOf(call)
  const enough = new AbortController()
  let heard = 0
  process.stdout.once('error', () => enough.abort()) // nobody reads on
  await listen({
    cluster: await requireCluster(loaded.host),
    database,
    channel: call.args[0]!,
    signal: AbortSignal.any([interrupted, enough.signal]),
    onNotification: (notification) => {
      if (heard === count) return
      process.stdout.write(`${call.json ? JSON.stringify(notification) : lineOf(notification)}\n`)
      heard += 1
      if (heard === count) enough.abort()
    },
  })
  return { text: '', result: { heard } }
}

function lineOf({ at, payload }: Heard): string {
  return `${at.toISOString()} ${oneLine(payload)}`
}

function countOf({ options }: Call): number | undefined {
  const { count } = options
  if (count === undefined) return undefined
  if (/^[1-9]\d*$/.test(String(count))) return Number(count)
  throw new Fail('usage', `--count: "${String(count)}" is no number of notifications`)
}

function oneDatabase(names: readonly string[], wanted: unknown): string {
  const [first] = names
  if (typeof wanted === 'string') {
    if (names.includes(wanted)) return wanted
    throw new Fail('usage', `the host file has no database "${wanted}"${didYouMean(wanted, names)}`)
  }
  if (first !== undefined && names.length === 1) return first
  throw new Fail(
    'usage',
    `which database? There ${names.length === 0 ? 'is none' : `are ${names.join(', ')}`}`,
    {
      hint: first === undefined ? 'Add: [databases.NAME]' : `Say --database ${first}`,
    },
  )
}

async function openShell(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const [name, ...args] = call.args
  const database = profileDatabase(loaded.host, name!)
  const { migrations, owner } = loaded.host.databases[database]!
  const cluster = await requireCluster(loaded.host)
  const { argv, options } = psqlProgram({ cluster, database, role: migrations?.role ?? owner }, args)
  return become(argv, options)
}
