import { parse } from 'smol-toml'
import { lineOf, linesOf } from './toml.ts'
import { Fail } from '../core/fail.ts'

/**
 * A host file's text with other values for keys of one table; whatever else is in it stays, comments and
 * all. A key that is not there yet comes below the head of its table. Pure.
 * @param values by key; undefined takes the key away
 * @throws {Fail} `host-file` where the text is built in a way that this cannot edit, such as an inline table
 */
export function editHostFile(
  text: string,
  table: string,
  values: Readonly<Record<string, string | number | undefined>>,
): string {
  let edited = text
  for (const [key, value] of Object.entries(values)) edited = editKey(edited, table, key, value)
  assertOnly(text, edited, table, values)
  return edited
}

function editKey(text: string, table: string, key: string, value: string | number | undefined): string {
  const map = linesOf(text)
  const lines = text.split('\n')
  const at = map.get(JSON.stringify([table, key]))
  if (at === undefined) {
    if (value === undefined) return text
    const head = lineOf(map, [table])
    if (head === undefined || !lines[head - 1]!.trimStart().startsWith('[')) throw unable(table, key)
    lines.splice(head, 0, `${key} = ${render(value)}`)
  } else if (value === undefined) {
    lines.splice(at - 1, 1)
  } else {
    const match = PAIR.exec(lines[at - 1]!)
    if (!match) throw unable(table, key)
    lines[at - 1] = `${match[1]}${render(value)}${match[3]}`
  }
  return lines.join('\n')
}

// What comes before the value, the value, and what comes after it.
const PAIR = /^(\s*[^=#"']+=\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[\w.+-]+)(\s*(?:#.*)?)$/

// A JSON text is a basic string of TOML.
function render(value: string | number): string {
  return JSON.stringify(value)
}

/** That this and nothing else was changed is seen by reading both. */
function assertOnly(
  before: string,
  after: string,
  table: string,
  values: Readonly<Record<string, string | number | undefined>>,
): void {
  const wanted = parse(before)
  const kept = Object.entries({ ...tableOf(wanted[table]), ...values }).filter(
    ([, value]) => value !== undefined,
  )
  const expected = { ...wanted, [table]: Object.fromEntries(kept) }
  if (sorted(parse(after)) !== sorted(expected)) throw unable(table, Object.keys(values).join(', '))
}

function tableOf(value: unknown): object {
  return typeof value === 'object' && value !== null ? value : {}
}

function sorted(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === 'bigint') return String(item)
    if (typeof item !== 'object' || item === null || Array.isArray(item) || item instanceof Date) return item
    return Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  })
}

function unable(table: string, key: string): Fail {
  return new Fail(
    'host-file',
    `the host file cannot be edited: where [${table}] has "${key}" is no line of its own`,
    {
      hint: `Write it as a table: [${table}] in a line, and each key below it in another one.`,
    },
  )
}
