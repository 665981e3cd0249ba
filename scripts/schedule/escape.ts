import { Fail } from '../core/fail.ts'

/**
 * One argument of an ExecStart= line, whatever is in it: quoted where it needs to be, with systemd's escapes
 * (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers"). Pure.
 * @throws {Fail} `host-file` for a NUL byte or half a character, which no argument can have
 */
export function execArgument(text: string): string {
  return quoted(execPath(text).replaceAll('$', '$$$$'))
}

/** The program of such a line: variables are not looked for in it. Quotes are left to {@link execLine}. */
function execPath(text: string): string {
  assertText(text)
  return text.replaceAll('%', '%%')
}

/** A whole line: an absolute path and its arguments. Pure. */
export function execLine([program, ...args]: readonly string[]): string {
  return [quoted(execPath(program!)), ...args.map(execArgument)].join(' ')
}

/** A lone `;` would begin another command. */
const PLAIN = /^[A-Za-z0-9_@:,./=+%$-]+$/

function quoted(text: string): string {
  if (PLAIN.test(text)) return text
  const escaped = text
    .replaceAll(/[\\"]/g, String.raw`\$&`)
    .replaceAll(/\p{Cc}/gu, (character) =>
      [...Buffer.from(character)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''),
    )
  return `"${escaped}"`
}

/** A text for people, such as Description=, in one line: escapes mean nothing there, but specifiers do. Pure. */
export function plainText(text: string): string {
  const line = text.replaceAll(/\p{Cc}+/gu, ' ').replaceAll('%', '%%')
  return line.endsWith('\\') ? `${line} ` : line // at the end of a line it would take the next one along
}

/**
 * One path of a list such as ReadWritePaths=, with its prefix. Quotes hold it together there, but a backslash
 * stays what it is. Pure.
 * @throws {Fail} `host-file` for one that cannot be said
 */
export function pathWord(prefix: string, path: string): string {
  assertText(path)
  if (/["'\\]|\p{Cc}/u.test(path)) {
    throw new Fail('host-file', `a unit of systemd cannot name the path ${JSON.stringify(path)}`, {
      hint: 'Use a path without quotes, backslashes and control characters.',
    })
  }
  const word = `${prefix}${path.replaceAll('%', '%%')}`
  return /\s/.test(word) ? `"${word}"` : word
}

/** What a unit's name has at most (src/basic/unit-name.h, UNIT_NAME_MAX). */
const NAME_BYTES = 255

/**
 * A name of a unit as it is.
 * @throws {Fail} `host-file` when systemd would not have it
 */
export function unitName(name: string): string {
  if (/^[A-Za-z0-9:_.-]+@?\.(service|timer)$/.test(name) && name.length <= NAME_BYTES) return name
  throw new Fail(
    'host-file',
    `${JSON.stringify(name)} is no name of a unit: it has letters, digits, "_", ".", "-", and ${NAME_BYTES} bytes at most`,
    {
      hint: 'Give the job a shorter name.',
    },
  )
}

function assertText(text: string): void {
  if (!text.includes('\0') && text.isWellFormed()) return
  throw new Fail('host-file', `a unit of systemd cannot hold ${JSON.stringify(text)}`, {
    hint: 'No NUL byte, and whole characters only.',
  })
}
