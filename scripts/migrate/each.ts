import type { Call, Outcome } from '../core/cli.ts'
import { log } from '../core/log.ts'
import { beginProgress } from '../core/progress.ts'
import type { Change } from './apply.ts'
import { type OnChange, rehearseAll } from './migrate.ts'
import type { MigrateScope } from './scope.ts'
import { lineOf, showChanges } from './show.ts'

/** Rehearses the migrations of each database in a scratch one. @throws {Fail} what {@link rehearseAll} throws */
export async function rehearseEach(scopes: readonly MigrateScope[]): Promise<Outcome> {
  const rows: string[] = []
  for (const scope of scopes) {
    const isWhole = await rehearseAll(scope)
    const stuck = scope.migrations.filter(({ down }) => down === undefined).map(({ file }) => file)
    const how = isWhole
      ? 'go up, down and up again'
      : `go up; not down again: ${stuck.join(', ')} has no way back`
    rows.push(`${scope.database}: ${scope.migrations.length} migrations ${how}`)
  }
  return { text: rows.join('\n'), result: { databases: scopes.map(({ database }) => database) } }
}

/** What would be run in each database; nothing is written. */
export async function planOf(
  scopes: readonly MigrateScope[],
  plan: (scope: MigrateScope) => Promise<readonly Change[]>,
): Promise<Outcome> {
  const plans: { database: string; changes: readonly Change[] }[] = []
  for (const scope of scopes) plans.push({ database: scope.database, changes: await plan(scope) })
  return {
    text: plans.map(({ database, changes }) => showChanges(database, changes)).join('\n\n'),
    result: {
      databases: plans.map(({ database, changes }) => ({ database, changes: changes.map(resultOf) })),
    },
  }
}

type Runs = (scope: MigrateScope, onChange: OnChange) => Promise<Change[]>

/** Runs something in each database, with progress; what a migration has to say is told before it runs. */
export async function runEach(call: Call, scopes: readonly MigrateScope[], runs: Runs): Promise<Outcome> {
  using progress = beginProgress('migrate', call.json)
  const done: { database: string; changes: readonly Change[] }[] = []
  for (const scope of scopes) {
    const changes = await runs(scope, ({ migration, direction }, index, of) => {
      for (const note of direction === 'up' ? migration.notes : [])
        log('notice', `${migration.file}: ${note}`)
      progress.show(`${scope.database}: ${migration.file}, ${index + 1} of ${of}`)
    })
    done.push({ database: scope.database, changes })
  }
  const rows = done.flatMap(({ database, changes }) =>
    changes.length === 0 ? [`${database}: nothing to do`] : changes.map((change) => lineOf(database, change)),
  )
  return {
    text: rows.join('\n'),
    result: {
      databases: done.map(({ database, changes }) => ({ database, changes: changes.map(resultOf) })),
    },
  }
}

function resultOf({ migration, direction }: Change): object {
  return { version: migration.version, name: migration.name, direction }
}
