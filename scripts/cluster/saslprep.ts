import { LEFT_TO_RIGHT, REFUSED, RIGHT_TO_LEFT, UNASSIGNED } from './stringprep.ts'

// RFC 3454, table C.1.2; U+200B stands in table B.1 too, and PostgreSQL makes a space of it.
const SPACE = /[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]/g
// RFC 3454, table B.1.
const NOTHING = /\u00ad|\u034f|\u1806|[\u180b-\u180d]|\u200c|\u200d|\u2060|[\ufe00-\ufe0f]|\ufeff/g

// Made of the tables when the first password needs them, which is hardly ever.
const compiled = new Map<string, RegExp>()

/**
 * What SCRAM derives its keys from: the password as SASLprep (RFC 4013) has it, so that it does not
 * matter how a client spells an accented letter.
 *
 * Does what PostgreSQL does (src/common/saslprep.c and its callers): plain ASCII stays as it is,
 * control characters included, and a password that the RFC refuses is taken unprepared.
 */
export function saslprep(password: string): string {
  if (!/[^\0-\x7f]/.test(password)) return password
  const mapped = password.replace(SPACE, ' ').replace(NOTHING, '')
  return isRefused(mapped) ? password : mapped.normalize('NFKC')
}

// The server looks at the text before it is normalised; so do we.
function isRefused(text: string): boolean {
  if (text === '' || characters(UNASSIGNED).test(text) || characters(REFUSED).test(text)) return true
  const rightToLeft = characters(RIGHT_TO_LEFT)
  if (!rightToLeft.test(text)) return false
  const letters = Array.from(text)
  const hasFrame = rightToLeft.test(letters[0]!) && rightToLeft.test(letters.at(-1)!)
  return !hasFrame || characters(LEFT_TO_RIGHT).test(text)
}

/** One of a list of code points and ranges, in hexadecimal. */
function characters(table: string): RegExp {
  const known = compiled.get(table)
  if (known) return known
  const ranges = table
    .trim()
    .split(/\s+/)
    .map((range) => range.replace(/[0-9a-f]+/g, String.raw`\u{$&}`))
  const expression = new RegExp(`[${ranges.join('')}]`, 'u')
  compiled.set(table, expression)
  return expression
}
