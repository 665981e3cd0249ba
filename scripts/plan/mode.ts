import { show } from '../cluster/sql.ts'
import type { Host } from '../host/schema.ts'
import { MIGRATION } from './kinds.ts'
import type { Planned } from './planner.ts'

/** What was found of a database: nothing, an older schema than is wanted, or all of it. */
export interface DatabaseMode {
  readonly database: string
  readonly mode: 'new' | 'older' | 'existing'
  /** Versions that are to be applied. */
  readonly migrations: number
}

/** What was found of each database of a host file, by what is to be done. Pure. */
export function modesOf(host: Host, { changes }: Pick<Planned, 'changes'>): DatabaseMode[] {
  return Object.keys(host.databases).map((database) => {
    const migrations = changes.filter(
      ({ kind, name }) => kind === MIGRATION && name.startsWith(`${database}: `),
    ).length
    const isNew = changes.some(
      ({ kind, name, action }) => kind === 'database' && name === show(database) && action === 'create',
    )
    return { database, migrations, mode: isNew ? 'new' : migrations > 0 ? 'older' : 'existing' }
  })
}

/** `telemetry is new, walt was there with an older schema`; empty without any database. Pure. */
export function showModes(modes: readonly DatabaseMode[]): string {
  const texts = { new: 'is new', older: 'was there with an older schema', existing: 'was there' } as const
  return modes.map(({ database, mode }) => `${show(database)} ${texts[mode]}`).join(', ')
}
