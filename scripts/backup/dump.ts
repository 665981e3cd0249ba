import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { output } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { BackupSpec } from '../host/schema.ts'
import type { Box } from './box.ts'
import { dumpName } from './layout.ts'
import type { ManifestDatabase } from './manifest.ts'
import { clientProgram } from '../cluster/program.ts'
import { compressedOutput } from './program.ts'
import { withClient } from './session.ts'
import {
  type ClusterSurvey,
  type DatabaseLine,
  type DatabaseProperties,
  surveyDatabase,
  surveyProperties,
} from './survey.ts'

/** File of what databases are besides their content. */
export const PROPERTIES_NAME = 'databases.json'

/** How long pg_dump waits for a table that somebody has locked. */
const LOCK_WAIT_SECONDS = 600

/** SQLSTATE invalid_catalog_name. */
const UNKNOWN_DATABASE = '3D000'

/** What to dump, and from where. */
export interface DumpScope {
  readonly cluster: Cluster
  readonly spec: BackupSpec
  readonly survey: ClusterSurvey
  readonly databases: readonly DatabaseLine[]
}

/**
 * Dumps databases, several at once, each as one snapshot. Roles and tablespaces, which no snapshot
 * covers, are read before and after: a dump whose roles changed meanwhile may lack one that it needs.
 * @throws {Fail} `backup-failed`
 */
export async function dumpInto(box: Box, scope: DumpScope): Promise<ManifestDatabase[]> {
  for (let attempt = 1; ; attempt++) {
    const before = await dumpGlobals(box, scope)
    const dumped = await dumpAll(box, scope)
    const after = await dumpGlobals(box, scope)
    if (comparable(before) === comparable(after)) {
      await box.add('globals.sql', after)
      const properties = Object.fromEntries(
        dumped.map(({ database, properties }) => [database.name, properties]),
      )
      const text = `${JSON.stringify({ format: 1, properties }, undefined, 2)}\n`
      await box.add(PROPERTIES_NAME, Buffer.from(text))
      return dumped.map(({ database }) => database).toSorted((a, b) => (a.name < b.name ? -1 : 1))
    }
    await box.empty()
    if (attempt === 2) {
      throw new Fail('backup-failed', 'roles or tablespaces changed while the databases were dumped, twice', {
        hint: 'Let what changes them come to rest, then take it again.',
      })
    }
    log('notice', 'backup: roles or tablespaces changed meanwhile: dumping again')
  }
}

interface Dumped {
  readonly database: ManifestDatabase
  readonly properties: DatabaseProperties
}

/** @returns undefined when somebody dropped the database meanwhile, which is no error unless the job names it */
async function dumpDatabase(
  box: Box,
  { cluster, spec }: DumpScope,
  { name }: DatabaseLine,
): Promise<Dumped | undefined> {
  try {
    return await withClient(cluster, name, async (client) => {
      const snapshot = await beginSnapshot(client)
      const survey = await surveyDatabase(client)
      const properties = await surveyProperties(client)
      // Compression is zstd's: that of pg_dump cannot be left to another program, and is gzip before 16.
      const program = clientProgram(cluster, 'pg_dump', name, [
        '--format=custom',
        '--compress=0',
        `--snapshot=${snapshot}`,
        `--lock-wait-timeout=${LOCK_WAIT_SECONDS}s`,
      ])
      const dump = compressedOutput(program, spec.compression_level, box.signal)
      const file = await box.add(dumpName(name), dump.bytes, true, () => dump.plainSize())
      await client.query('commit')
      return { database: { ...survey, file: file.name }, properties }
    })
  } catch (error) {
    if (!(error instanceof Fail) || (error.code !== 'command-failed' && error.code !== 'server-failed'))
      throw error
    if (spec.databases === undefined && (await isGone(cluster, name))) {
      log('notice', `backup: database "${name}" was dropped meanwhile`)
      return undefined
    }
    throw new Fail('backup-failed', `cannot dump database "${name}": ${messageOf(error)}`, {
      hint: error.hint,
      cause: error,
    })
  }
}

/** Whether a database was dropped. While DROP DATABASE goes on, a connection waits for its lock. */
async function isGone(cluster: Cluster, name: string): Promise<boolean> {
  try {
    const client = await cluster.connect(name)
    await client.end()
    return false
  } catch (error) {
    return error instanceof Fail && (error.cause as { code?: string } | undefined)?.code === UNKNOWN_DATABASE
  }
}

/** Fixes what pg_dump sees, so that what is said of the database is true of its dump. */
async function beginSnapshot(client: Client): Promise<string> {
  await client.query('begin isolation level repeatable read read only')
  const { rows } = await client.query<{ snapshot: string }>('select pg_export_snapshot() as snapshot')
  return rows[0]!.snapshot
}

async function dumpGlobals(box: Box, { cluster, survey }: DumpScope): Promise<Buffer> {
  const passwords = survey.isSuperuser ? [] : ['--no-role-passwords']
  const args = ['--globals-only', '--database=postgres', ...passwords]
  const { argv, options } = clientProgram(cluster, 'pg_dumpall', 'postgres', args)
  try {
    return Buffer.concat(await Array.fromAsync(output(argv, { ...options, signal: box.signal })))
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('backup-failed', `cannot dump roles and tablespaces: ${error.message}`, {
      hint: error.hint,
      cause: error,
    })
  }
}

/** Without the random key that pg_dumpall puts around its text since the minor releases of August 2025. */
function comparable(globals: Buffer): string {
  return globals.toString('latin1').replaceAll(/^\\(un)?restrict .*$/gm, '')
}

/** Dumps all databases, some at once; the first failure ends the others and is thrown when they have ended. */
async function dumpAll(box: Box, scope: DumpScope): Promise<Dumped[]> {
  const results: Dumped[] = []
  const queue = scope.databases.values()
  const failures: unknown[] = []
  const worker = async () => {
    for (const line of queue) {
      if (failures.length > 0) return
      try {
        const dumped = await dumpDatabase(box, scope, line)
        if (dumped) results.push(dumped)
      } catch (error) {
        failures.push(error)
        box.callOff(error)
      }
    }
  }
  await Promise.all(Array.from({ length: scope.spec.jobs }, worker))
  if (failures.length > 0) throw failures[0]
  return results
}
