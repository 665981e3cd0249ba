import { Fail } from '../core/fail.ts'

/**
 * One argument of an ExecStart= line, whatever is in it: quoted where it needs to be, with systemd's escapes
 * (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers"). Pure.
 * @throws {Fail} `host-file` for a NUL byte or half a character, which no argument can have
 */
export function execArgument(text: string): string {
  assertText(text)
  return quoted(text.replaceAll('%', '%%').replaceAll('$', '$$$$'))
}

/**
 * A whole line: an absolute path and its arguments. Pure.
 * @throws {Fail} `host-file` for what no unit can say; a program has more of it (src/basic/string-util.c, string_is_safe)
 */
export function execLine([program, ...args]: readonly string[]): string {
  // No variable is looked for in a program's path.
  return [pathWord('', program!), ...args.map(execArgument)].join(' ')
}

/** Control characters, and what is no character: a line that has one is ignored (src/basic/utf8.c, unichar_is_valid). */
const UNSAID = /[\p{Cc}\p{Noncharacter_Code_Point}]+/gu

/** A lone `;` would begin another command. */
const PLAIN = /^[A-Za-z0-9_@:,./=+%$-]+$/

function quoted(text: string): string {
  if (PLAIN.test(text)) return text
  const escaped = text
    .replaceAll(/[\\"]/g, String.raw`\$&`)
    .replaceAll(UNSAID, (characters) =>
      [...Buffer.from(characters)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''),
    )
  return `"${escaped}"`
}

/** A text for people, such as Description=, in one line: escapes mean nothing there, but specifiers do. Pure. */
export function plainText(text: string): string {
  const line = text.toWellFormed().replaceAll(UNSAID, ' ').replaceAll('%', '%%')
  return line.endsWith('\\') ? `${line} ` : line // at the end of a line it would take the next one along
}

/**
 * One path of a list such as ReadWritePaths=, with its prefix. Quotes hold it together there, but a backslash
 * stays what it is. Pure.
 * @throws {Fail} `host-file` for one that cannot be said
 */
export function pathWord(prefix: string, path: string): string {
  assertText(path)
  if (
    !path.startsWith('/') ||
    /["'\\]|[\p{Cc}\p{Noncharacter_Code_Point}]/u.test(path) ||
    /(^|\/)\.\.?(\/|$)/.test(path)
  ) {
    throw new Fail('host-file', `a unit of systemd cannot name the path ${JSON.stringify(path)}`, {
      hint: 'Use a path from the root without quotes, backslashes, control characters, "." and "..".',
    })
  }
  const word = `${prefix}${path.replaceAll('%', '%%')}`
  return /[\s;]/.test(word) ? `"${word}"` : word
}

/** What a unit's name has at most (src/basic/unit-name.h, UNIT_NAME_MAX). */
const NAME_BYTES = 255

/**
 * A name of a unit as it is.
 * @param room bytes that another unit's name needs beside it
 * @throws {Fail} `host-file` when systemd would not have it
 */
export function unitName(name: string, room = 0): string {
  const most = NAME_BYTES - room
  if (/^[A-Za-z0-9:_.-]+@?\.(service|timer)$/.test(name) && name.length <= most) return name
  throw new Fail(
    'host-file',
    `${JSON.stringify(name)} is no name of a unit: it has letters, digits, "_", ".", "-", and ${most} bytes at most`,
    { hint: 'Give the job a shorter name.' },
  )
}

function assertText(text: string): void {
  if (!text.includes('\0') && text.isWellFormed()) return
  throw new Fail('host-file', `a unit of systemd cannot hold ${JSON.stringify(text)}`, {
    hint: 'No NUL byte, and whole characters only.',
  })
}
