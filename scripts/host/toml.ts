/** Where each key of a TOML text stands: the path as JSON text (`["roles","a b",0]`) to its line, from 1. */
export type Lines = ReadonlyMap<string, number>

/**
 * Finds the line of every key, table and array element in a TOML text. The parser gives none, so
 * this scans the text once more; it trusts that the parser has accepted it. Pure.
 */
export function linesOf(text: string): Lines {
  return new Scanner(text).scan()
}

/** The line of a path, or of the nearest thing around it that has one. */
export function lineOf(lines: Lines, path: readonly PropertyKey[]): number | undefined {
  for (let length = path.length; length > 0; length--) {
    const line = lines.get(JSON.stringify(path.slice(0, length)))
    if (line !== undefined) return line
  }
  return undefined
}

type Path = readonly (string | number)[]

const BARE = /[A-Za-z0-9_-]/
const BLANK = /[ \t\r\n]/

class Scanner {
  readonly #text: string
  readonly #lines = new Map<string, number>()
  /** How many elements each array of tables has so far, by its path. */
  readonly #elements = new Map<string, number>()
  #at = 0
  #line = 1

  constructor(text: string) {
    this.#text = text
  }

  scan(): Lines {
    let table: Path = []
    for (this.#skip(); this.#at < this.#text.length; this.#skip()) {
      if (this.#peek() === '[') table = this.#header()
      else this.#pair(table)
    }
    return this.#lines
  }

  /** `[a.b]` or `[[a.b]]`: gives the path that the pairs below it belong to. */
  #header(): Path {
    const line = this.#line
    const isArray = this.#text.startsWith('[[', this.#at)
    this.#next(isArray ? 2 : 1)
    const keys = this.#key()
    this.#next(isArray ? 2 : 1)
    let path: (string | number)[] = []
    for (const [index, key] of keys.entries()) {
      path = [...path, key]
      this.#note(path, line)
      const counted = this.#elements.get(JSON.stringify(path))
      const isLast = index === keys.length - 1
      if (isArray && isLast) {
        this.#elements.set(JSON.stringify(path), (counted ?? 0) + 1)
        path = [...path, counted ?? 0]
        this.#note(path, line)
      } else if (counted !== undefined) path = [...path, counted - 1]
    }
    return path
  }

  #pair(table: Path): void {
    const line = this.#line
    let path = table
    for (const key of this.#key()) {
      path = [...path, key]
      this.#note(path, line)
    }
    this.#skip()
    this.#next(1) // =
    this.#skip()
    this.#value(path)
  }

  #value(path: Path): void {
    const first = this.#peek()
    if (first === '[') this.#array(path)
    else if (first === '{') this.#inlineTable(path)
    else if (first === '"' || first === "'") this.#string()
    else while (this.#at < this.#text.length && !/[,\]}#\n]/.test(this.#peek())) this.#next(1)
  }

  #array(path: Path): void {
    this.#next(1)
    for (let index = 0; ; index++) {
      this.#skip(',')
      if (this.#at >= this.#text.length || this.#peek() === ']') break
      this.#note([...path, index], this.#line)
      const begin = this.#at
      this.#value([...path, index])
      if (begin === this.#at) this.#next(1) // not valid TOML: go on rather than stand still
    }
    this.#next(1)
  }

  #inlineTable(path: Path): void {
    this.#next(1)
    for (;;) {
      this.#skip(',')
      if (this.#at >= this.#text.length || this.#peek() === '}') break
      this.#pair(path)
    }
    this.#next(1)
  }

  #key(): string[] {
    const keys: string[] = []
    for (;;) {
      this.#skip()
      const first = this.#peek()
      if (first === '"' || first === "'") keys.push(this.#string())
      else {
        const begin = this.#at
        while (this.#at < this.#text.length && BARE.test(this.#peek())) this.#next(1)
        keys.push(this.#text.slice(begin, this.#at))
        if (begin === this.#at) this.#next(1) // not valid TOML: go on rather than stand still
      }
      this.#skip()
      if (this.#peek() !== '.') return keys
      this.#next(1)
    }
  }

  #string(): string {
    const quote = this.#peek()
    const isLong = this.#text.startsWith(quote.repeat(3), this.#at)
    const end = isLong ? quote.repeat(3) : quote
    this.#next(end.length)
    const begin = this.#at
    while (this.#at < this.#text.length && !this.#text.startsWith(end, this.#at)) {
      this.#next(quote === '"' && this.#peek() === '\\' ? 2 : 1)
    }
    const inner = this.#text.slice(begin, this.#at)
    this.#next(end.length)
    // A long string may end with one or two quotes of its own before the closing three.
    while (isLong && this.#peek() === quote) this.#next(1)
    return quote === '"' ? unescape(inner) : inner
  }

  /** Skips blanks, comments and, where they are only separators, commas. */
  #skip(separator = ''): void {
    for (; this.#at < this.#text.length; this.#next(1)) {
      if (this.#peek() === '#') {
        const end = this.#text.indexOf('\n', this.#at)
        this.#at = end < 0 ? this.#text.length : end
      }
      if (!BLANK.test(this.#peek()) && (separator === '' || this.#peek() !== separator)) return
    }
  }

  #peek(): string {
    return this.#text[this.#at] ?? ''
  }

  #next(count: number): void {
    for (const end = Math.min(this.#at + count, this.#text.length); this.#at < end; this.#at++) {
      if (this.#text[this.#at] === '\n') this.#line++
    }
  }

  /** The first place counts: a table may be opened again by a table inside it. */
  #note(path: Path, line: number): void {
    const key = JSON.stringify(path)
    if (!this.#lines.has(key)) this.#lines.set(key, line)
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  b: '\b',
  t: '\t',
  n: '\n',
  f: '\f',
  r: '\r',
  e: '\u001b',
  '"': '"',
  '\\': '\\',
}

function unescape(text: string): string {
  const code = (hex: string) => String.fromCodePoint(Number.parseInt(hex.slice(2), 16))
  return text.replace(/\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2})|\\./g, (escape) =>
    escape.length > 2 ? code(escape) : (ESCAPES[escape[1]!] ?? escape),
  )
}
