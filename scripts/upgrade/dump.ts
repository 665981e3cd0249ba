import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { clientProgram } from '../cluster/program.ts'
import { ident } from '../cluster/sql.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { databasesOf } from './databases.ts'

/** Two clusters that run behind closed doors. */
export interface DumpTransfer {
  readonly old: Cluster
  readonly new: Cluster
  readonly installUser: string
  readonly jobs: number
  /** Brings over no row, and nothing of where things are: a rehearsal. */
  readonly isRehearsal?: boolean
}

/**
 * Brings everything over by dumps, in several processes, and stops at the first error. For what pg_upgrade
 * cannot do: other checksums, another encoding of what initdb made, columns of types that it refuses.
 * @returns names of the databases
 * @throws {Fail} `command-failed` with the statement that the new major does not take
 */
export async function transferDump(dump: DumpTransfer): Promise<string[]> {
  // template1 first: it is made anew by a session in postgres, and that one by a session in it.
  const names = (await databasesOf(dump.old)).toSorted(
    (a, b) => Number(b === 'template1') - Number(a === 'template1'),
  )
  const place = (index: number) => join(dump.new.dataDir, `howdah-dump-${index}`)
  const taken: Promise<void>[] = []
  const take = (end: number) => {
    for (const name of names.slice(taken.length, end)) {
      const one = takeDatabase(dump, name, place(taken.length))
      one.catch(() => {}) // it is thrown when its turn comes
      taken.push(one)
    }
  }
  try {
    take(2)
    await restoreGlobals(dump)
    for (const [index, name] of names.entries()) {
      await taken[index]
      take(index + 2) // the next one, while this one is restored
      await restoreDatabase(dump, name, place(index))
    }
  } finally {
    await Promise.allSettled(taken)
  }
  return names
}

/** Roles, tablespaces and their grants; of the role that initdb made there is one already. */
async function restoreGlobals(dump: DumpTransfer): Promise<void> {
  const { new: target, installUser } = dump
  const dumpall = clientProgram(asNew(dump), 'pg_dumpall', 'postgres', ['--globals-only', ...placesOf(dump)])
  const { stdout } = await run(dumpall.argv, dumpall.options)
  const made = `CREATE ROLE ${ident(installUser)};`
  const text = stdout.split('\n').filter((line) => line !== made && line !== `CREATE ROLE ${installUser};`)
  const psql = clientProgram(target, 'psql', 'postgres', ['-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', '-'])
  await run(psql.argv, { ...psql.options, input: text.join('\n') }).catch((error: unknown) => {
    throw named(error, 'roles and tablespaces')
  })
}

/** Into a folder of the new data directory, where there is to be space for all of it, and not for long. */
async function takeDatabase(dump: DumpTransfer, name: string, place: string): Promise<void> {
  await run(['rm', '-rf', '--', place])
  const options = ['--format=directory', '--file', place, '--compress=0', '--no-sync']
  options.push('--jobs', String(dump.jobs), ...placesOf(dump))
  if (dump.isRehearsal) options.push('--schema-only')
  const taken = clientProgram(asNew(dump), 'pg_dump', name, options)
  await run(taken.argv, { ...taken.options, timeoutSeconds: DAY })
}

async function restoreDatabase(dump: DumpTransfer, name: string, place: string): Promise<void> {
  // Databases that initdb makes are made anew, so that they have the old one's properties; not from within.
  const isMade = name === 'postgres' || name === 'template1'
  const from = name === 'postgres' ? 'template1' : 'postgres'
  const options = ['--create', ...(isMade ? ['--clean'] : []), '--exit-on-error']
  options.push('--jobs', String(dump.jobs), ...placesOf(dump), place)
  const restored = clientProgram(dump.new, 'pg_restore', from, options)
  await run(restored.argv, { ...restored.options, timeoutSeconds: DAY }).catch((error: unknown) => {
    throw named(error, `database "${name}"`)
  })
  await run(['rm', '-rf', '--', place])
}

const DAY = 86_400

function placesOf({ isRehearsal }: DumpTransfer): string[] {
  return isRehearsal ? ['--no-tablespaces'] : []
}

/** The old one's server for programs of the new major. */
function asNew({ old, new: target }: DumpTransfer): Cluster {
  return { ...old, bindir: target.bindir }
}

function named(error: unknown, what: string): unknown {
  if (!(error instanceof Fail) || error.code !== 'command-failed') return error
  return new Fail('command-failed', `the new major does not take ${what}: ${error.message}`, {
    hint: error.hint,
    cause: error,
  })
}
