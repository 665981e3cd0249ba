import { canonicalSetting } from './assignment.ts'

/** What pg_settings says of one setting, as far as it takes to compare and to check values. */
export interface Guc {
  /** As the server spells it: `DateStyle`. */
  readonly name: string
  readonly vartype: 'bool' | 'integer' | 'real' | 'string' | 'enum'
  /** Of the numbers in it: `8kB`, `ms`, or null. */
  readonly unit: string | null
  readonly enumvals: readonly string[] | null
  readonly minVal: string | null
  readonly maxVal: string | null
}

/**
 * One text for all spellings of a value: `1GB`, `1024MB` and `131072` (of 8 kB) are `131072`.
 * @returns undefined when the setting cannot have that value
 */
export function canonicalValue(guc: Guc, text: string): string | undefined {
  switch (guc.vartype) {
    case 'bool':
      return parseBool(text)
    case 'enum':
      return parseEnum(guc.enumvals ?? [], text)
    case 'integer':
    case 'real':
      return parseNumber(guc, text)?.toString()
    case 'string':
      return canonicalSetting(guc.name, text)
  }
}

/** Why a setting cannot have a value, or undefined when nothing speaks against it. */
export function valueProblem(guc: Guc, text: string): string | undefined {
  const shown = JSON.stringify(text)
  const value = canonicalValue(guc, text)
  if (value === undefined) return `${shown} is no value of it: ${expectation(guc)}`
  if (guc.vartype !== 'integer' && guc.vartype !== 'real') return undefined
  const unit = guc.unit === null ? '' : ` (in ${guc.unit})`
  if (guc.minVal !== null && Number(value) < Number(guc.minVal)) {
    return `${shown} is below its minimum, ${guc.minVal}${unit}`
  }
  if (guc.maxVal !== null && Number(value) > Number(guc.maxVal)) {
    return `${shown} is above its maximum, ${guc.maxVal}${unit}`
  }
  return undefined
}

function expectation({ vartype, unit, enumvals }: Guc): string {
  if (vartype === 'bool') return 'it is "on" or "off"'
  if (vartype === 'enum') return `it is one of ${(enumvals ?? []).join(', ')}`
  if (unit === null) return 'it is a number without a unit'
  return unit in TIME ? 'it is a time such as "90s"' : 'it is a size such as "64MB"'
}

// Any beginning of the words that says which one it is (src/backend/utils/adt/bool.c).
const BOOL = /^(?:(t|tr|tru|true|y|ye|yes|on|1)|(?:f|fa|fal|fals|false|n|no|of|off|0))$/i

function parseBool(text: string): string | undefined {
  const match = BOOL.exec(text)
  return match === null ? undefined : match[1] === undefined ? 'off' : 'on'
}

// Spellings that the server takes and pg_settings does not list (entries marked hidden in guc_tables.c).
const HIDDEN: Readonly<Record<string, string>> = {
  debug: 'debug2',
  archive: 'replica',
  hot_standby: 'replica',
}

function parseEnum(values: readonly string[], text: string): string | undefined {
  const word = text.toLowerCase()
  const listed = values.find((value) => value.toLowerCase() === word)
  if (listed !== undefined) return listed
  const other = HIDDEN[word] ?? (/^(true|false|yes|no|1|0)$/.test(word) ? parseBool(word) : undefined)
  return other !== undefined && values.includes(other) ? other : undefined
}

// From the biggest to the smallest: a fraction is rounded to a multiple of the next smaller one.
const MEMORY = { TB: 1024 ** 4, GB: 1024 ** 3, MB: 1024 ** 2, kB: 1024, B: 1 } as const
const TIME = { d: 86_400e6, h: 3600e6, min: 60e6, s: 1e6, ms: 1e3, us: 1 } as const

function parseNumber(guc: Guc, text: string): number | undefined {
  const match = /^\s*([+-]?(?:0x[0-9a-f]+|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?))\s*([a-zA-Z]*)\s*$/i.exec(text)
  if (!match) return undefined
  const isInteger = guc.vartype === 'integer'
  const bare = isInteger ? parseInteger(match[1]!) : Number(match[1])
  const value = match[2] === '' ? bare : convert(bare, match[2]!, guc.unit)
  return isInteger && value !== undefined ? roundEven(value) : value
}

// strtol with base 0: a leading zero is octal, which is how pg_settings shows modes such as 0700.
function parseInteger(text: string): number {
  const [, sign, digits] = /^([+-]?)(.*)$/.exec(text)!
  const value = /^0[0-7]+$/.test(digits!) ? Number.parseInt(digits!, 8) : Number(digits)
  return sign === '-' ? -value : value
}

/** A number in one unit as a number in the setting's own, rounded as convert_to_base_unit (guc.c) does. */
function convert(value: number, unit: string, base: string | null): number | undefined {
  const [, count, name] = /^(\d*)([A-Za-z]+)$/.exec(base ?? '') ?? []
  for (const units of [MEMORY, TIME] as Record<string, number>[]) {
    const factor = Object.hasOwn(units, unit) ? units[unit] : undefined
    if (factor === undefined || name === undefined || !Object.hasOwn(units, name)) continue
    const smaller = Object.values(units).find((other) => other < factor) ?? 1
    const isWhole = Number.isInteger(value)
    const smallest = isWhole ? value * factor : roundEven((value * factor) / smaller) * smaller
    return smallest / (units[name]! * Number(count || 1))
  }
  return undefined
}

/** C's rint(): halves go to the even neighbour. */
function roundEven(value: number): number {
  const rounded = Math.round(value)
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded
}
