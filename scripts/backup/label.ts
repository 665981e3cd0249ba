/** How a backup was made, which decides what files it has. */
export type BackupKind = 'dump' | 'base' | 'incr'

/** Crockford's base32: no letter in it looks like a digit or like another one. */
const LETTERS = '0123456789abcdefghjkmnpqrstvwxyz'
const LABEL = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-(dump|base|incr)-[0-9a-hjkmnp-tv-z]{6}$/

/** Characters of the random part of a label. */
const RANDOM_LETTERS = 6

/** What a label is made from. */
export interface LabelParts {
  /** When the backup begins, by the clock of the server. */
  readonly now: Date
  readonly kind: BackupKind
  /** At least 6 random bytes. */
  readonly random: Uint8Array
  /** The newest label that is there: the new one is later, even if the clock was set back. */
  readonly newest: string | undefined
}

/** Names a backup: `20261122T020000Z-dump-k3v9qa`. Labels sort in the order of their backups. Pure. */
export function makeLabel({ now, kind, random, newest }: LabelParts): string {
  const earliest = newest === undefined ? 0 : labelTime(newest).getTime() + 1000
  const time = new Date(Math.max(now.getTime(), earliest))
  return `${compactTime(time)}-${kind}-${randomLetters(random)}`
}

/** `20261122T020000Z`. Pure. */
export function compactTime(time: Date): string {
  return time
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(/[-:]/g, '')
}

/** Six letters for names that must not meet. Pure. */
export function randomLetters(random: Uint8Array): string {
  return [...random.subarray(0, RANDOM_LETTERS)].map((byte) => LETTERS[byte % LETTERS.length]).join('')
}

/** Whether a text is a label. */
export function isLabel(text: string): boolean {
  return LABEL.test(text)
}

/** The time in a label. */
export function labelTime(label: string): Date {
  const [, year, month, day, hour, minute, second] = LABEL.exec(label)!
  return new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
}
