import fc from 'fast-check'
import { parse, stringify } from 'smol-toml'
import { describe, expect, test } from 'vitest'
import { lineOf, linesOf } from '../../scripts/host/toml.ts'

type Path = readonly (string | number)[]

/** Every path of a document: tables, keys and elements. */
function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null || value instanceof Date) return []
  const entries = Array.isArray(value)
    ? value.map((element, index) => [index, element] as const)
    : Object.entries(value)
  const paths: Path[] = []
  for (const [key, inner] of entries) paths.push([...path, key], ...pathsOf(inner, [...path, key]))
  return paths
}

/** Whether a line holds a key, in one of the ways in which TOML writes it. */
function holdsKey(line: string, key: string): boolean {
  return [key, JSON.stringify(key), escapedKey(key)].some((form) => line.includes(form))
}

function escapedKey(key: string): string {
  return key.replaceAll(/[\p{Cc}"\\]/gu, (c) => `\\u${c.codePointAt(0)!.toString(16).padStart(4, '0')}`)
}

function assertLines(text: string): void {
  const document = parse(text)
  const lines = linesOf(text)
  const texts = text.split('\n')
  for (const path of pathsOf(document)) {
    const line = lines.get(JSON.stringify(path))
    const key = path.findLast((part) => typeof part === 'string')!
    expect(line, `no line for ${JSON.stringify(path)} in:\n${text}`).toBeGreaterThan(0)
    expect(line).toBeLessThanOrEqual(texts.length)
    const isRight = typeof path.at(-1) === 'number' || holdsKey(texts[line! - 1]!, key)
    expect(isRight, `${JSON.stringify(path)} is not on line ${line} of:\n${text}`).toBe(true)
  }
}

// Keys and texts with everything in them that could be taken for something else.
const word = fc.oneof(
  fc.constantFrom(
    'a',
    'b-c',
    '10',
    '-1',
    'true',
    'a b',
    '',
    '"',
    "'",
    '#',
    '[x]',
    'a.b',
    'x = 1',
    '\\',
    'é',
    '\n',
    '\t',
    '"""',
  ),
  fc.string({ maxLength: 6 }),
  fc.string({ unit: 'binary', maxLength: 3 }).filter((text) => text.isWellFormed()),
)
const key = word.filter((text) => text !== '__proto__')

const { value } = fc.letrec<{ value: unknown; scalar: unknown; list: unknown; table: unknown }>((tie) => ({
  scalar: fc.oneof(
    word,
    fc.integer({ min: -1000, max: 1000 }),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.boolean(),
    fc.date({ noInvalidDate: true, min: new Date(0), max: new Date(4e12) }),
  ),
  list: fc.array(tie('value'), { maxLength: 3 }),
  table: fc.dictionary(key, tie('value'), { maxKeys: 3, noNullPrototype: true }),
  value: fc.oneof({ depthSize: 'small', withCrossShrink: true }, tie('scalar'), tie('list'), tie('table')),
}))
const document = fc.dictionary(key, value, { maxKeys: 5, noNullPrototype: true })

describe('linesOf', () => {
  test('any document, as it is written by a program: every path has the line of its key', () => {
    expect(() =>
      fc.assert(
        fc.property(document, (object) => assertLines(stringify(object))),
        { numRuns: 300 },
      ),
    ).not.toThrow()
  })

  /** Writes a value in one of many layouts, as people do; `pick` chooses. */
  function layout(inner: unknown, pick: (count: number) => number, isInline = false): string {
    const gap = () => ['', ' ', '\t'][pick(3)]!
    // A line break may stand in an array only, not in a table that is inside of a line.
    const wide = () =>
      isInline ? gap() : ['', ' ', '\n', ' # ] } , "\n', '\r\n\r\n', "\n  # '''\n"][pick(6)]!
    if (Array.isArray(inner)) {
      const elements = inner.map((element) => `${wide()}${layout(element, pick, isInline)}${wide()}`)
      return `[${elements.join(',')}${elements.length > 0 && pick(2) ? `,${wide()}` : wide()}]`
    }
    if (typeof inner === 'object' && inner !== null && !(inner instanceof Date)) {
      const pairs = Object.entries(inner).map(
        ([name, element]) =>
          `${gap()}${quote(name, pick)}${gap()}=${gap()}${layout(element, pick, true)}${gap()}`,
      )
      return `{${pairs.join(',')}}`
    }
    if (typeof inner === 'string') return text(inner, pick, isInline)
    return stringify({ x: inner }).slice(4).trimEnd()
  }

  function text(inner: string, pick: (count: number) => number, isInline: boolean): string {
    const isPlain = !/(?!\t)\p{Cc}/u.test(inner)
    const choice = pick(4)
    if (choice === 1 && isPlain && !inner.includes("'")) return `'${inner}'`
    if (isInline) return JSON.stringify(inner)
    if (choice === 2 && isPlain && !inner.includes("'''") && !inner.endsWith("'"))
      return `'''\n${inner}\n[x]\na = 1'''`
    if (choice === 3)
      return `"""\n${escapedKey(inner)} \\\n   # no comment\n\\"""""""`.replace(/\\"""""""$/, '\\""""')
    return JSON.stringify(inner)
  }

  function quote(name: string, pick: (count: number) => number): string {
    if (/^[\w-]+$/.test(name) && /^[\x20-\x7e]+$/.test(name) && pick(2)) return name
    if (!/'|(?!\t)\p{Cc}/u.test(name) && pick(2)) return `'${name}'`
    return `"${escapedKey(name)}"`
  }

  /** A document with headers, arrays of tables, dotted keys and comments in any mixture. */
  function write(table: Record<string, unknown>, path: string[], pick: (count: number) => number): string {
    const noise = () => ['', '\n', '# [no.table]\n', '  # "\n', '\r\n'][pick(5)]!
    const name = (keys: readonly string[]) =>
      keys.map((part) => quote(part, pick)).join(pick(3) ? '.' : ' . ')
    const isTable = (inner: unknown): inner is Record<string, unknown> =>
      typeof inner === 'object' && inner !== null && !Array.isArray(inner) && !(inner instanceof Date)
    const isTables = (inner: unknown): inner is Record<string, unknown>[] =>
      Array.isArray(inner) && inner.length > 0 && inner.every(isTable)
    let pairs = ''
    let below = ''
    for (const [part, inner] of Object.entries(table)) {
      if (isTables(inner) && pick(3)) {
        for (const element of inner) {
          below += `${noise()} [[${name([...path, part])}]]${pick(2) ? ' # x' : ''}\n${write(element, [...path, part], pick)}`
        }
      } else if (isTable(inner) && pick(3)) {
        below += `${noise()}[ ${name([...path, part])} ]\n${write(inner, [...path, part], pick)}`
      } else if (isTable(inner) && Object.keys(inner).length > 0 && pick(2)) {
        for (const [second, leaf] of Object.entries(inner)) {
          pairs += `${noise()}${name([part, second])} = ${layout(leaf, pick)}\n`
        }
      } else pairs += `${noise()}${name([part])}${pick(2) ? ' = ' : '='}${layout(inner, pick)} # =\n`
    }
    return pairs + below
  }

  test('any document, as people write it: every path has the line of its key', () => {
    const check = () =>
      fc.assert(
        fc.property(document, fc.array(fc.nat(), { minLength: 40, maxLength: 40 }), (object, numbers) => {
          let at = 0
          const pick = (count: number) => numbers[at++ % numbers.length]! % count
          const text = write(object, [], pick)
          assertLines(text) // which also says whether it is TOML at all
        }),
        { numRuns: 1000 },
      )
    expect(check).not.toThrow()
  })

  test.each([
    ['a dotted key', 'a.b . c = 1', ['a', 'b', 'c'], 1],
    ['a key in a table', '\n[x]\n\n a = 1', ['x', 'a'], 4],
    ['a table inside a table that is opened later', '[a.b]\nx = 1\n[a]\ny = 2', ['a', 'y'], 4],
    ['the table itself', '[a.b]\nx = 1\n[a]\ny = 2', ['a'], 1],
    ['the second element of an array of tables', '[[a]]\nx = 1\n[[a]]\nx = 2', ['a', 1, 'x'], 4],
    ['a table below the last element', '[[a]]\n[[a]]\n[a.b]\nc = 1', ['a', 1, 'b', 'c'], 4],
    [
      'an array of tables below an element',
      '[[a]]\n[[a.b]]\n[[a]]\n[[a.b]]\n[[a.b]]\nc = 1',
      ['a', 1, 'b', 1, 'c'],
      6,
    ],
    ['an element of an array over lines', 'a = [ # one\n 1,\n\n 2 ]', ['a', 1], 4],
    ['a key of a table in an array', 'a = [\n{ x = 1 },\n{ y = [ 1 ] } ]', ['a', 1, 'y', 0], 3],
    ['after a text over lines', 'a = """\nb = 1\n"\\""" # """\nb = 2', ['b'], 4],
    ['after a literal text over lines', "a = '''\n\\'''\nb = 2", ['b'], 3],
    ['after a text that ends with quotes of its own', 'a = """x"""""\nb = 2', ['b'], 2],
    ['after a text with a backslash before its end', 'a = "\\\\"\nb = 2', ['b'], 2],
    ['after a date with a space in it', 'a = 1979-05-27 07:32:00 # x\nb = 2', ['b'], 2],
    ['a key with an escape', '"\\u0061\\t" = 1', ['a\t'], 1],
    ['an empty key', "\n'' = 1", [''], 2],
    ['lines of another system', 'a = 1\r\n\r\n[x]\r\nb = 2\r\n', ['x', 'b'], 4],
  ])('%s: line', (_, text, path, line) => {
    expect(linesOf(text).get(JSON.stringify(path))).toBe(line)
  })

  test('any text at all, even no TOML: comes to an end', () => {
    const piece = fc.constantFrom(
      '[',
      ']',
      '[[',
      '{',
      '}',
      '=',
      ',',
      '.',
      '"',
      "'",
      '"""',
      "'''",
      '#',
      '\n',
      '\\',
      ' ',
      'a',
      '1',
      '\u0000',
    )
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ unit: piece, maxLength: 40 }), fc.string({ unit: 'binary' })),
        (text) => {
          expect(linesOf(text)).toBeInstanceOf(Map)
        },
      ),
      { numRuns: 2000, timeout: 5000 },
    )
  })

  test('a large document: takes time in proportion to its size', () => {
    const text = Array.from({ length: 20_000 }, (_, index) => `[roles.r${index}]\nlogin = true\n`).join('')
    const begun = performance.now()
    expect(linesOf(text).get('["roles","r19999","login"]')).toBe(40_000)
    expect(performance.now() - begun).toBeLessThan(3000)
  })
})

describe('lineOf', () => {
  const lines = linesOf('[roles.a]\nlogin = true\nmember_of = ["b"]')

  test.each([
    ['the path itself', ['roles', 'a', 'login'], 2],
    ['a key that is not there: the table around it', ['roles', 'a', 'createdb'], 1],
    ['inside of a value: the value', ['roles', 'a', 'member_of', 0, 'role'], 3],
    ['nothing around it', ['tablespaces', 'x'], undefined],
    ['nothing at all', [], undefined],
  ])('%s', (_, path, line) => {
    expect(lineOf(lines, path)).toBe(line)
  })
})
