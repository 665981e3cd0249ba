import { type Change, sectionOf } from './apply.ts'
import type { VersionLine, VersionState } from './state.ts'

const STATES: Readonly<Record<VersionState, string>> = {
  applied: 'applied',
  pending: 'pending',
  'out-of-order': 'pending, lower than one that is applied',
  missing: 'applied, and there is no file of it',
  renamed: 'applied, under another name',
  edited: 'applied, and its file was changed since',
  'down-edited': 'applied, and the way back was changed since',
  'half-done': 'half-done',
}

/** One row a version. Pure. */
export function showStatus(
  database: string,
  lines: readonly VersionLine[],
  broken: readonly string[],
): string {
  if (lines.length === 0) return `${database}: there are no migrations`
  const width = Math.max(...lines.map(({ version }) => version.length))
  const nameWidth = Math.max(...lines.map(({ name }) => name.length))
  const rows = lines.map(({ version, name, state, applied }) =>
    [
      `  ${version.padStart(width)}  ${name.padEnd(nameWidth)}`,
      STATES[state],
      applied && `${applied.appliedAt} by ${applied.appliedBy}`,
    ]
      .filter(Boolean)
      .join('  '),
  )
  const indexes = broken.map((name) => `  ! index ${name} is invalid: no query uses it`)
  return [`${database}:`, ...rows, ...indexes].join('\n')
}

/** The SQL that would run, with what should be known first. Pure. */
export function showChanges(database: string, changes: readonly Change[]): string {
  if (changes.length === 0) return `${database}: nothing to do`
  return changes.map((change) => showChange(database, change)).join('\n\n')
}

function showChange(database: string, change: Change): string {
  const { migration, direction } = change
  const section = sectionOf(change)
  const head = `${direction === 'up' ? '+' : '-'} ${database}: ${migration.file}, ${direction}${section.transaction ? '' : ', outside of a transaction'}`
  return [head, ...migration.notes.map((note) => `! ${note}`), section.text.trim()].join('\n')
}

/** A line for a change that was made. Pure. */
export function lineOf(database: string, { migration, direction }: Change): string {
  return `${direction === 'up' ? '+' : '-'} ${database}: ${migration.version} ${migration.name}`
}

/** What is not as it should be, for machines, and for people with the command to run; no row when all is. Pure. */
export function differenceOf(
  database: string,
  lines: readonly VersionLine[],
): {
  readonly differs: readonly Pick<VersionLine, 'version' | 'state'>[]
  readonly row: string | undefined
} {
  const others = lines.filter(({ state }) => state !== 'applied' && state !== 'down-edited')
  const differs = others.map(({ version, state }) => ({ version, state }))
  if (differs.length === 0) return { differs, row: undefined }
  const names = differs.map(({ version, state }) => `${version} is ${state}`)
  const next = differs.every(({ state }) => state === 'pending')
    ? 'howdah migrate up'
    : 'howdah migrate status'
  return { differs, row: `${database}: ${names.join(', ')}; run: ${next}` }
}
