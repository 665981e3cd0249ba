import { table } from '../core/table.ts'
import type { Profile } from './profile.ts'
import type { Answer } from './query.ts'
import { type NamedQuery, usageOf } from './query-file.ts'

/** The queries of a profile, a line each. Pure. */
export function showQueries({ name, queries }: Profile): string {
  if (queries.length === 0) return `${name} has no queries`
  const rows = queries.map((query) => [usageOf(query), effectText(query), query.summary])
  return table([['query', 'effect', 'summary'], ...rows])
}

/** `changes one row`. Pure. */
export function effectText({ effect }: NamedQuery): string {
  if (effect === 'reads') return 'reads'
  return effect.verb === 'empties'
    ? 'empties'
    : `${effect.verb} ${effect.rows === 'one' ? 'one row' : 'rows'}`
}

/** What a query gave, as a table. Pure. */
export function showAnswer(query: NamedQuery, { columns, rows, count }: Answer): string {
  const all = columns.length === 0 ? '' : `${table([columns, ...rows.map((row) => row.map(cellText))])}\n`
  return `${all}${countText(query, count)}`
}

/** What a query would do. Pure. */
export function showQuestion(query: NamedQuery, values: readonly (string | null)[]): string {
  const given = query.parameters.map(
    ({ name, type }, index) => `  $${index + 1} ${name} ${type} = ${values[index] ?? 'null'}`,
  )
  return [`${query.name}: ${effectText(query)}`, ...given, query.sql].join('\n')
}

/** Rows as objects, for machines. Pure. */
export function rowObjects({ columns, rows }: Answer): Record<string, unknown>[] {
  return rows.map((row) => Object.fromEntries(columns.map((column, index) => [column, row[index]])))
}

/** `1 row changed`. Pure. */
export function countText({ effect }: NamedQuery, count: number | null): string {
  const rows = count === 1 ? '1 row' : `${count} rows`
  if (effect === 'reads') return rows
  if (effect.verb === 'empties') return 'emptied; TRUNCATE fires no trigger of a row, so nobody was notified'
  if (count === null) return 'done'
  return `${rows} ${effect.verb === 'deletes' ? 'deleted' : 'changed'}`
}

function cellText(value: unknown): string {
  if (value === null) return ''
  return oneLine(typeof value === 'string' ? value : JSON.stringify(value))
}

/** A text that stays on one line, and tells a terminal nothing else than its letters. Pure. */
export function oneLine(text: string): string {
  return text.replaceAll(
    /[\p{Cc}\p{Cf}\u2028\u2029]/gu,
    (letter) => `\\u${letter.codePointAt(0)!.toString(16).padStart(4, '0')}`,
  )
}
