import type { Change, Step } from '../../scripts/plan/change.ts'

/** A change of these steps, for the executor, which looks at nothing else of it. */
export function changeOf(name: string, ...steps: readonly Step[]): Change {
  return { kind: 'test', name, action: 'create', line: 'x', hazards: [], steps }
}

/** A statement that may share a transaction; `alone` for one that may not. */
export function sql(text: string, database = 'postgres'): Step {
  return { run: 'sql', database, text, transaction: true }
}

/** A statement that PostgreSQL refuses inside a transaction. */
export function alone(text: string, database = 'postgres'): Step {
  return { run: 'sql', database, text, transaction: false }
}
