import { parse } from 'smol-toml'
import { Fail } from '../core/fail.ts'

/** A key that no table may have: assigned, it is the prototype of an object. */
export const FORBIDDEN = '__proto__'

/** The keys that an `a.b=value` argument names. Pure. */
export function overrideKeys(override: string): string[] {
  return override.slice(0, override.indexOf('=')).split('.')
}

/**
 * Sets one key in a document.
 * @param override `a.b=value`; the value is TOML where it parses as such, else a text
 * @returns its path
 * @throws {Fail} `usage`
 */
export function applyOverride(document: Record<string, unknown>, override: string): string[] {
  const keys = overrideKeys(override)
  const text = override.slice(override.indexOf('=') + 1)
  if (keys.some((key) => key === '' || key === FORBIDDEN)) {
    throw new Fail('usage', `cannot understand the override "${override}"`, {
      hint: 'Write it as table.key=value.',
    })
  }
  let table = document
  for (const key of keys.slice(0, -1)) {
    if (!Object.hasOwn(table, key)) table[key] = {}
    const next = table[key]
    if (typeof next !== 'object' || next === null || Array.isArray(next)) {
      throw new Fail('usage', `cannot set "${override}": "${key}" is no table`)
    }
    table = next as Record<string, unknown>
  }
  table[keys.at(-1)!] = overrideValue(text)
  return keys
}

function overrideValue(text: string): unknown {
  try {
    return parse(`value = ${text}`)['value']
  } catch {
    return text // not TOML, so it is meant as it stands: a path, a name
  }
}
