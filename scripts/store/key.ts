import { Fail } from '../core/fail.ts'

/**
 * Checks a key: parts between single `/`, none of them empty, `.` or `..`, no NUL and no line break,
 * and none that begins with a dot, which is where a folder keeps what is not whole yet.
 * @throws {Fail} `bug`: keys are made by this program, and names from outside are encoded first
 */
export function checkKey(key: string): string {
  const parts = key.split('/')
  const wrong = parts.find((part) => part === '' || part.startsWith('.') || /[\0\n\r]/.test(part))
  if (wrong !== undefined) {
    throw new Fail('bug', `a key must not have the part ${JSON.stringify(wrong)}: ${JSON.stringify(key)}`)
  }
  return key
}

/** Checks the beginning of keys: as {@link checkKey}, but it may be empty or end anywhere. */
export function checkPrefix(prefix: string): string {
  const whole = prefix.replace(/\/$/, '')
  if (whole !== '') checkKey(whole)
  return prefix
}

/**
 * A name from outside (of a database, of a file) as one part of a key: everything but letters,
 * digits, `_`, `-` and inner dots becomes `%` and the byte in hex, so that two names never meet.
 */
export function keyPart(name: string): string {
  const bytes = [...Buffer.from(name, 'utf8')].map((byte) => {
    const letter = String.fromCharCode(byte)
    return /[A-Za-z0-9_.-]/.test(letter) ? letter : `%${byte.toString(16).padStart(2, '0')}`
  })
  return bytes.join('').replace(/^\./, '%2e')
}

/** Compares two keys by their bytes in UTF-8: the order in which a store lists them. */
export function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
