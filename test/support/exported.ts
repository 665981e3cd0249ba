import { stringify } from 'smol-toml'
import type { Kind } from '../../scripts/plan/kind.ts'
import type { TestServer } from './server.ts'

/** Names that break whatever pastes them: they go through every kind. */
export const HOSTILE_NAMES: readonly string[] = [
  'a"b',
  'Ünï cødé',
  'with space',
  'x'.repeat(63),
  'select',
  `'; drop table x; --`,
  'back\\slash',
  '10',
]

/** What some kinds say of a server, as a part of a host file. */
export async function exportedToml(server: TestServer, kinds: readonly Kind<any>[]): Promise<string> {
  let document: Record<string, unknown> = {}
  for (const kind of kinds) {
    const part = await server.observe(stringify(document), async (observe) => {
      const actual = await kind.actual({ ...observe, isExport: true })
      return kind.exported?.(actual, { host: observe.host, facts: observe.facts }) ?? {}
    })
    document = merged(document, part)
  }
  return stringify(document)
}

function merged(into: Record<string, unknown>, from: Record<string, unknown>): Record<string, unknown> {
  const result = { ...into }
  for (const [key, value] of Object.entries(from)) {
    const old = result[key]
    result[key] = isTable(old) && isTable(value) ? merged(old, value) : value
  }
  return result
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
