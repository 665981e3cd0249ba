/** One statement of a text, as it stands there, without the `;` that ends it. */
export interface Statement {
  readonly text: string
  /** Where its first character is: from 0, in UTF-16 units of the whole text. */
  readonly offset: number
  /** Its first words in lower case, comments left out: `create index concurrently if`. */
  readonly head: string
  /** A line that psql would take for itself, such as `\restrict`. */
  readonly isMetaCommand: boolean
}

/** A text that ends in the midst of something. */
export class UnfinishedText extends Error {
  readonly offset: number

  constructor(what: string, offset: number) {
    super(`${what} is not closed`)
    this.offset = offset
  }
}

/**
 * Splits a text into its statements as psql's lexer does (src/fe_utils/psqlscan.l): quotes of every kind,
 * dollar quotes, nested comments, `BEGIN ATOMIC ... END` of SQL functions, and `;` inside parentheses, as
 * rules have them. Empty statements are left out. Pure.
 * @throws {UnfinishedText}
 */
export function statementsOf(text: string): Statement[] {
  const statements: Statement[] = []
  const scan = new Scan(text)
  for (;;) {
    const statement = scan.next()
    if (statement === undefined) return statements
    statements.push(statement)
  }
}

/** How many words a head has at most. */
const HEAD_WORDS = 5

class Scan {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  next(): Statement | undefined {
    this.#skipSpace()
    while (this.#text[this.#at] === ';') {
      this.#at += 1
      this.#skipSpace()
    }
    const offset = this.#at
    if (offset >= this.#text.length) return undefined
    if (this.#text[offset] === '\\') return this.#metaCommand(offset)
    const words: string[] = []
    const depths = { parentheses: 0, blocks: 0 }
    while (this.#at < this.#text.length) {
      const character = this.#text[this.#at]!
      if (character === ';' && depths.parentheses <= 0 && depths.blocks === 0) break
      if (character === '(') depths.parentheses += 1
      if (character === ')') depths.parentheses -= 1
      const word = this.#token()
      if (word !== undefined) {
        words.push(word)
        depths.blocks = Math.max(0, depths.blocks + blockStep(words, depths.blocks))
      }
    }
    const text = this.#text.slice(offset, this.#at)
    if (this.#text[this.#at] === ';') this.#at += 1
    return { text, offset, head: words.slice(0, HEAD_WORDS).join(' '), isMetaCommand: false }
  }

  #metaCommand(offset: number): Statement {
    const end = this.#text.indexOf('\n', offset)
    this.#at = end === -1 ? this.#text.length : end
    const text = this.#text.slice(offset, this.#at)
    return { text, offset, head: text.split(/\s/)[0]!, isMetaCommand: true }
  }

  #skipSpace(): void {
    for (;;) {
      const space = this.#match(SPACE)
      if (space !== undefined) continue
      if (!this.#text.startsWith('/*', this.#at)) return
      this.#skipComment()
    }
  }

  /** Comments nest (src/backend/parser/scan.l, xcstart). */
  #skipComment(): void {
    const offset = this.#at
    let depth = 0
    do {
      const mark = this.#match(/[^*/]*(?:\/(?!\*)[^*/]*|\*(?!\/)[^*/]*)*(\/\*|\*\/)/y)
      if (mark === undefined) throw new UnfinishedText('a comment', offset)
      depth += mark.endsWith('/*') ? 1 : -1
    } while (depth > 0)
  }

  /** Passes over what stands here; gives it when it is a bare word, in lower case. */
  #token(): string | undefined {
    if (SINGLE.test(this.#text[this.#at]!)) {
      this.#at += 1
      return undefined
    }
    const before = this.#at
    this.#skipSpace()
    if (this.#at > before) return undefined
    if (this.#quoted()) return undefined
    const word = this.#match(WORD)
    if (word !== undefined) return word.toLowerCase()
    if (this.#match(NUMBER) === undefined) this.#at += 1
    return undefined
  }

  /** Passes over a text in quotes, if one begins here. */
  #quoted(): boolean {
    const offset = this.#at
    const opened = this.#match(OPENS_QUOTES)
    if (opened === undefined) return false
    if (opened.endsWith('$')) {
      const end = this.#text.indexOf(opened, this.#at)
      if (end === -1) throw new UnfinishedText(`the text after ${opened}`, offset)
      this.#at = end + opened.length
      return true
    }
    const isName = opened.endsWith('"')
    const rest = isName ? /(?:[^"]|"")*"/y : /^e'/i.test(opened) ? /(?:[^'\\]|''|\\[^])*'/y : /(?:[^']|'')*'/y
    if (this.#match(rest) === undefined)
      throw new UnfinishedText(isName ? 'a name in quotes' : 'a text in quotes', offset)
    return true
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at
    const found = pattern.exec(this.#text)?.[0]
    if (found !== undefined) this.#at += found.length
    return found === '' ? undefined : found
  }
}

/** What nothing longer begins with: neither a word nor a number, a quote or a comment. */
const SINGLE = /[!#%&()*+,.:;<=>?@[\]^`{|}~]/
const SPACE = /\s+|--[^\n]*/y
// Everything that is not ASCII belongs to a name (ident_start and ident_cont in src/backend/parser/scan.l).
const WORD = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y
const NUMBER = /\d[\w$.\u0080-\uffff]*/y
const OPENS_QUOTES =
  /[eE]'|(?:[uU]&|[bBxXnN])?'|(?:[uU]&)?"|\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y

// The body of an SQL function: psql counts the same words, and only in CREATE [OR REPLACE] FUNCTION and PROCEDURE.
function blockStep(words: readonly string[], depth: number): number {
  if (words[0] !== 'create') return 0
  const isRoutine = /^create (or replace )?(function|procedure)\b/.test(words.slice(0, 4).join(' '))
  const [last, word] = words.slice(-2)
  if (!isRoutine) return 0
  if (depth === 0) return last === 'begin' && word === 'atomic' ? 1 : 0
  if (word === 'case' || word === 'begin') return 1
  return word === 'end' ? -1 : 0
}
